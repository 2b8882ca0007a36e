package mounts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Kind is what a bind mount's source is on the host.
type Kind int

// The kinds of source.
const (
	Regular Kind = iota // a file, a directory, or a link to one
	Missing
	BlockDevice
	Special // socket, fifo, character device
)

// Source describes the source of a bind mount.
type Source struct {
	Kind      Kind
	Directory bool
	Tmpfs     bool   // it lies on a tmpfs
	Hugetlbfs bool   // it lies on a hugetlbfs
	GID       uint32 // group that owns it
}

// Inspect looks at the sources of a spec's bind mounts, following symbolic
// links, for Options.Sources.
func Inspect(spec *specs.Spec) (map[string]Source, error) {
	sources := map[string]Source{}
	for _, m := range spec.Mounts {
		if !isBind(m) {
			continue
		}
		s, err := inspect(m.Source)
		if err != nil {
			return nil, fmt.Errorf("mount %s from %q: %w", m.Destination, m.Source, err)
		}
		sources[m.Source] = s
	}
	return sources, nil
}

func inspect(path string) (Source, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); errors.Is(err, fs.ErrNotExist) {
		return Source{Kind: Missing}, nil
	} else if err != nil {
		return Source{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	s := Source{GID: st.Gid}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		s.Directory = true
	case unix.S_IFBLK:
		s.Kind = BlockDevice
	default:
		s.Kind = Special
	}
	var fsys unix.Statfs_t
	if err := unix.Statfs(path, &fsys); err != nil {
		return Source{}, &fs.PathError{Op: "statfs", Path: path, Err: err}
	}
	s.Tmpfs = fsys.Type == unix.TMPFS_MAGIC
	s.Hugetlbfs = fsys.Type == unix.HUGETLBFS_MAGIC
	return s, nil
}

// ShmSize tells how large the /dev/shm of a sandbox is to be, in bytes: as large
// as the file system that its spec binds there, else DefaultShmSize.
func ShmSize(spec *specs.Spec) (uint64, error) {
	m, ok := mountAt(spec, "/dev/shm")
	if !ok || !isBind(m) {
		return DefaultShmSize, nil
	}
	var fsys unix.Statfs_t
	if err := unix.Statfs(m.Source, &fsys); err != nil {
		return 0, fmt.Errorf("size of /dev/shm: %w", &fs.PathError{Op: "statfs", Path: m.Source, Err: err})
	}
	return fsys.Blocks * uint64(fsys.Bsize), nil
}

// maxResolvConf is the longest resolv.conf worth reading, in bytes.
const maxResolvConf = 64 << 10

// ResolvConf reads the file that a spec mounts at /etc/resolv.conf; nil: none.
func ResolvConf(spec *specs.Spec) ([]byte, error) {
	m, ok := mountAt(spec, "/etc/resolv.conf")
	if !ok || !isBind(m) {
		return nil, nil
	}
	info, err := os.Stat(m.Source)
	if err != nil {
		return nil, fmt.Errorf("resolv.conf: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxResolvConf {
		return nil, fmt.Errorf("resolv.conf %s: not a regular file of at most %d bytes: %w", m.Source, maxResolvConf, errdefs.ErrInvalidArgument)
	}
	data, err := os.ReadFile(m.Source)
	if err != nil {
		return nil, fmt.Errorf("resolv.conf: %w", err)
	}
	return data, nil
}

// mountAt returns the last mount of a spec with the given destination, which is
// the one a container sees.
func mountAt(spec *specs.Spec, destination string) (m specs.Mount, found bool) {
	for _, c := range spec.Mounts {
		if c.Destination == destination {
			m, found = c, true
		}
	}
	return m, found
}
