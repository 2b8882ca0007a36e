package storage

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/guest/mount"
	"github.com/kata-cc/kata-cc/internal/undo"
)

const (
	driverBlock     = "blk"
	driverOverlay   = "overlayfs"
	driverEphemeral = "ephemeral"
	driverLocal     = "local"
)

// job is the mounting of one storage.
type job struct {
	set       *Set
	st        *agentpb.Storage
	container string // empty for the sandbox itself
	undo      *undo.Stack
}

// drivers mount a storage, by the name the protocol gives them. What they do is
// on the job's undo stack, also when they fail.
var drivers = map[string]func(context.Context, *job) error{
	driverBlock:     mountBlock,
	"mmioblk":       mountBlock,
	"nvdimm":        mountBlock,
	driverOverlay:   mountOverlay,
	driverEphemeral: mountEphemeral,
	driverLocal:     makeLocal,
	"virtio-fs":     mountPlain,
	"9p":            mountPlain,
}

// Drivers lists the names of the storage drivers.
func Drivers() []string { return slices.Sorted(maps.Keys(drivers)) }

// mount makes m at the storage's mount point and enters its undoing.
func (j *job) mount(m mount.Mount) error {
	m.Target = j.st.GetMountPoint()
	j.undo.Add(removeDir(m.Target))
	if err := m.Do(); err != nil {
		return err
	}
	j.undo.Add(unmounter(m.Target))
	return nil
}

func unmounter(target string) func(context.Context) error {
	return func(context.Context) error { return mount.Unmount(target) }
}

// mountPlain hands everything to the kernel as it is.
func mountPlain(_ context.Context, j *job) error {
	opts, err := mount.ParseOptions(j.st.GetOptions())
	if err != nil {
		return err
	}
	return j.mount(mount.Mount{Source: j.st.GetSource(), FSType: j.st.GetFstype(), Options: opts})
}

// mountEphemeral mounts guest memory: a tmpfs with the options asked for, or huge pages.
func mountEphemeral(_ context.Context, j *job) error {
	gid, err := gidOption(j.st.GetOptions())
	if err != nil {
		return err
	}
	options := slices.DeleteFunc(slices.Clone(j.st.GetOptions()), func(o string) bool { return strings.HasPrefix(o, "fsgid=") })
	opts, err := mount.ParseOptions(options)
	if err != nil {
		return err
	}
	switch fstype := j.st.GetFstype(); fstype {
	case "tmpfs", "shm", "":
		if opts.Data, err = withinMemory(opts.Data); err != nil {
			return err
		}
		if err := j.mount(mount.Mount{Source: ephemeralSource(j.st), FSType: "tmpfs", Options: opts}); err != nil {
			return err
		}
	case "hugetlbfs":
		if err := j.reserveHugePages(); err != nil {
			return err
		}
		if err := j.mount(mount.Mount{Source: "nodev", FSType: fstype, Options: opts}); err != nil {
			return err
		}
	default:
		return fmt.Errorf("file system %q is not guest memory: %w", fstype, errdefs.ErrInvalidArgument)
	}
	return chgrp(j.st.GetMountPoint(), gid)
}

// withinMemory leaves out a size that is no limit, since the guest has less
// memory, such as that of a host whose volume is limited by its own memory only:
// then the kernel's limit holds, half of the memory.
func withinMemory(options []string) ([]string, error) {
	size, err := sizeOption(options, "size")
	if err != nil {
		return options, nil // none, or a form that the kernel is to judge
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return nil, fmt.Errorf("read the size of memory: %w", err)
	}
	if size < info.Totalram*uint64(info.Unit) {
		return options, nil
	}
	return slices.DeleteFunc(slices.Clone(options), func(o string) bool { return strings.HasPrefix(o, "size=") }), nil
}

func ephemeralSource(st *agentpb.Storage) string {
	if st.GetSource() == "" {
		return "tmpfs"
	}
	return st.GetSource()
}

// makeLocal makes a directory in guest memory, with the options mode= and fsgid=.
func makeLocal(_ context.Context, j *job) error {
	gid, err := gidOption(j.st.GetOptions())
	if err != nil {
		return err
	}
	dir := j.st.GetMountPoint()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	j.undo.Add(func(context.Context) error { return os.RemoveAll(dir) })
	mode := os.FileMode(0o755)
	if v, ok := mount.Option(j.st.GetOptions(), "mode"); ok {
		n, err := strconv.ParseUint(v, 8, 12)
		if err != nil {
			return fmt.Errorf("mode %q is not octal: %w", v, errdefs.ErrInvalidArgument)
		}
		mode = os.FileMode(n & 0o777)
	}
	if err := os.Chmod(dir, mode); err != nil { // MkdirAll's mode goes through the umask
		return err
	}
	return chgrp(dir, gid)
}

// layerName is the name of what is mounted at a mount point: a layer's id.
func layerName(mountPoint string) string { return path.Base(mountPoint) }
