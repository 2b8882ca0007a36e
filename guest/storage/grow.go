package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// ext4Resize is EXT4_IOC_RESIZE_FS, whose argument is the new number of blocks.
const ext4Resize = 0x40086610

// Grow lets the file system of a volume that is mounted fill size bytes of its
// device, once the device has them.
func (s *Set) Grow(ctx context.Context, mountPoint string, size uint64) error {
	if s.Find(mountPoint) == nil {
		return fmt.Errorf("resize volume %s: it is not mounted: %w", mountPoint, errdefs.ErrNotFound)
	}
	if err := grow(ctx, mountPoint, size); err != nil {
		return fmt.Errorf("resize volume %s to %d bytes: %w", mountPoint, size, err)
	}
	return nil
}

func grow(ctx context.Context, mountPoint string, size uint64) (err error) {
	root, err := os.Open(mountPoint)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(root.Fd()), &fs); err != nil {
		return fmt.Errorf("statfs: %w", err)
	}
	if fs.Type != unix.EXT4_SUPER_MAGIC {
		return fmt.Errorf("its file system is of type %#x; only ext4 can grow: %w", uint64(fs.Type), errdefs.ErrNotImplemented)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &st); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	if err := awaitSize(ctx, st.Dev, size); err != nil {
		return err
	}
	blocks := size / uint64(fs.Bsize)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, root.Fd(), ext4Resize, uintptr(unsafe.Pointer(&blocks))); errno != 0 {
		return fmt.Errorf("grow ext4 to %d blocks: %w", blocks, errno)
	}
	return nil
}

// awaitSize waits until a block device has so many bytes: the news of its growth
// comes from the host by another way than the request.
func awaitSize(ctx context.Context, device, size uint64) error {
	ctx, cancel := context.WithTimeout(ctx, sizeTimeout)
	defer cancel()
	path := fmt.Sprintf("/sys/dev/block/%d:%d/size", unix.Major(device), unix.Minor(device))
	for {
		text, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("size of the device: %w", err)
		}
		sectors, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
		if err != nil {
			return fmt.Errorf("size of the device: %s: %w", path, err)
		}
		if sectors*512 >= size {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("its device has %d bytes: %w", sectors*512, errdefs.ErrFailedPrecondition)
		case <-time.After(sizePeriod):
		}
	}
}
