package block

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// settlePoll is how often a device node is looked for that the kernel makes
// after it has told of the device.
const settlePoll = 2 * time.Millisecond

// Finder finds disks, also such as are being plugged.
type Finder struct {
	Sysfs   Sysfs
	Dev     string        // where the device nodes are
	Timeout time.Duration // how long to wait for a disk
}

// Find is the path of the disk that source names: a device node "/dev/...", or a
// position on the PCI bus, in either form. A disk that is not there yet is
// waited for.
func (f Finder) Find(ctx context.Context, source string) (string, error) {
	if strings.HasPrefix(source, "/") {
		return source, CheckDevice(source)
	}
	p, err := ParsePosition(source)
	if err != nil {
		return "", err
	}
	if name, noDisk := f.Sysfs.Disk(p); noDisk == nil {
		return f.node(ctx, name)
	}
	events, err := Listen()
	if err != nil {
		return "", err
	}
	defer func() { _ = events.Close() }()
	ctx, cancel := context.WithTimeoutCause(ctx, f.Timeout,
		fmt.Errorf("Timeout after %v waiting for uevent of a disk at PCI position %s: %w", f.Timeout, source, errdefs.ErrNotFound))
	defer cancel()
	for {
		// After the subscription, so that a disk cannot slip between the two.
		name, err := f.Sysfs.Disk(p)
		if err == nil {
			return f.node(ctx, name)
		}
		if !errdefs.IsNotFound(err) && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if _, err := events.Next(ctx); err != nil {
			return "", err
		}
	}
}

// node is the path of the device node of a disk, once it is there.
func (f Finder) node(ctx context.Context, name string) (string, error) {
	path := filepath.Join(f.Dev, name)
	for {
		err := CheckDevice(path)
		if !errors.Is(err, fs.ErrNotExist) {
			return path, err
		}
		select {
		case <-time.After(settlePoll):
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

// CheckDevice refuses a path that is not a block device.
func CheckDevice(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("Invalid device %s: %w", path, err)
	}
	if info.Mode()&os.ModeDevice == 0 || info.Mode()&os.ModeCharDevice != 0 {
		return fmt.Errorf("Invalid device %s: not a block device: %w", path, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Size is the size of a block device or file in bytes.
func Size(f *os.File) (int64, error) {
	end, err := f.Seek(0, unix.SEEK_END)
	if err != nil {
		return 0, fmt.Errorf("size of %s: %w", f.Name(), err)
	}
	return end, nil
}

// Number is the device number of a device node.
func Number(path string) (major, minor uint32, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, 0, fmt.Errorf("device number of %s: %w", path, err)
	}
	return unix.Major(st.Rdev), unix.Minor(st.Rdev), nil
}
