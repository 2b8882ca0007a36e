package mounts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

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
	Special // socket or fifo
	CharDevice
)

// Source describes the source of a bind mount.
type Source struct {
	Kind      Kind
	Directory bool
	Live      bool   // a directory whose link "..data" leads to a revision
	Tmpfs     bool   // it lies on a tmpfs
	Hugetlbfs bool   // it lies on a hugetlbfs
	PageSize  uint64 // of a hugetlbfs, in bytes
	Size      uint64 // that a tmpfs or hugetlbfs was given, in bytes; 0: none
	GID       uint32 // group that owns it
	// EmptyDir is the name of the emptyDir that a subPath was bound from, SubPath
	// the path below it.
	EmptyDir, SubPath string
	Device            Device        // of a block device, or of a file that may serve as one
	Direct            *DirectVolume // nil: it is no direct-assigned volume
	Image             *Image        // nil: it is no image volume
}

// Inspect looks at the sources of a spec's bind mounts, following symbolic
// links, for Options.Sources.
func Inspect(spec *specs.Spec) (map[string]Source, error) {
	sources := map[string]Source{}
	var table mountTable
	for _, m := range spec.Mounts {
		if !isBind(m) {
			continue
		}
		s, err := inspect(m.Source, &table)
		if err != nil {
			return nil, fmt.Errorf("mount %s from %q: %w", m.Destination, m.Source, err)
		}
		sources[m.Source] = s
	}
	return sources, nil
}

func inspect(path string, table *mountTable) (Source, error) {
	direct, err := readDirectVolume(path)
	if err != nil {
		return Source{}, err
	}
	if direct != nil {
		return inspectDirect(direct)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
		return Source{Kind: Missing}, nil
	} else if err != nil {
		return Source{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	s := Source{GID: st.Gid}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		s.Device = Device{Node: path, Identity: fmt.Sprintf("file %d:%d", st.Dev, st.Ino)}
	case unix.S_IFDIR:
		s.Directory = true
		target, err := os.Readlink(filepath.Join(path, "..data"))
		s.Live = err == nil && strings.HasPrefix(target, "..") && !strings.Contains(target, "/")
	case unix.S_IFBLK:
		s.Kind = BlockDevice
		s.Device = blockDevice(path, st.Rdev)
	case unix.S_IFCHR:
		s.Kind = CharDevice
	default:
		s.Kind = Special
	}
	var fsys unix.Statfs_t
	if err := unix.Statfs(path, &fsys); err != nil {
		return Source{}, &fs.PathError{Op: "statfs", Path: path, Err: err}
	}
	s.Tmpfs = fsys.Type == unix.TMPFS_MAGIC
	s.Hugetlbfs = fsys.Type == unix.HUGETLBFS_MAGIC
	fuse := fsys.Type == unix.FUSE_SUPER_MAGIC
	if s.Hugetlbfs {
		s.PageSize = uint64(fsys.Bsize)
		if fsys.Blocks < 1<<40 { // more is how the kernel says none
			s.Size = fsys.Blocks * s.PageSize
		}
	}
	return s, table.describe(path, fuse, &s)
}

// inspectDirect looks at the device of a direct-assigned volume.
func inspectDirect(d *DirectVolume) (Source, error) {
	s := Source{Direct: d}
	if d.FSType == "cifs" {
		return s, nil
	}
	var st unix.Stat_t
	if err := unix.Stat(d.Device, &st); err != nil {
		return Source{}, fmt.Errorf("direct-assigned volume: %w", &fs.PathError{Op: "stat", Path: d.Device, Err: err})
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
		s.Device = blockDevice(d.Device, st.Rdev)
	case unix.S_IFREG:
		s.Device = Device{Node: d.Device, Identity: fmt.Sprintf("file %d:%d", st.Dev, st.Ino)}
	default:
		return Source{}, fmt.Errorf("direct-assigned volume: %s is neither a block device nor a file: %w", d.Device, errdefs.ErrInvalidArgument)
	}
	return s, nil
}

// blockDevice describes the device of a node. One that tells nothing counts as
// writable, and the machine fails to open it if it is not.
func blockDevice(node string, number uint64) Device {
	major, minor := unix.Major(number), unix.Minor(number)
	data, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/ro", major, minor))
	return Device{
		Node: node, Identity: fmt.Sprintf("device %d:%d", major, minor),
		ReadOnly: err == nil && strings.TrimSpace(string(data)) == "1",
	}
}

// InspectDevices finds the host's nodes of a spec's block devices, by their path
// in the container, for Options.Devices.
func InspectDevices(spec *specs.Spec) map[string]Device {
	if spec.Linux == nil {
		return nil
	}
	found := map[string]Device{}
	for _, d := range spec.Linux.Devices {
		if d.Type != "b" {
			continue
		}
		number := unix.Mkdev(uint32(d.Major), uint32(d.Minor))
		for _, node := range []string{fmt.Sprintf("/dev/block/%d:%d", d.Major, d.Minor), deviceName(d), d.Path} {
			var st unix.Stat_t
			if node != "" && unix.Stat(node, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK && st.Rdev == number {
				found[d.Path] = blockDevice(node, number)
				break
			}
		}
	}
	return found
}

// deviceName is the node that the kernel names a device after; empty: it has none.
func deviceName(d specs.LinuxDevice) string {
	data, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/uevent", d.Major, d.Minor))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "DEVNAME="); ok {
			return filepath.Join("/dev", name)
		}
	}
	return ""
}

// OnHugePages reports whether a source lies on a hugetlbfs.
func OnHugePages(sources map[string]Source) bool {
	for _, s := range sources {
		if s.Hugetlbfs {
			return true
		}
	}
	return false
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
