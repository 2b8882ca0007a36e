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

// Requests of file systems, from the kernel's headers ext4.h and xfs_fs.h.
const (
	ext4Resize  = 0x40086610 // EXT4_IOC_RESIZE_FS, whose argument is the new number of blocks
	xfsGeometry = 0x80705864 // XFS_IOC_FSGEOMETRY_V1
	xfsGrow     = 0x4010586e // XFS_IOC_FSGROWFSDATA
)

// xfsGeometryV1 is struct xfs_fsop_geom_v1 as far as it matters.
type xfsGeometryV1 struct {
	_          [7]uint32
	MaxInodes  uint32 // how much of the space inodes may take, in hundredths
	DataBlocks uint64
	_          [72]byte
}

// xfsGrowth is struct xfs_growfs_data.
type xfsGrowth struct {
	Blocks    uint64
	MaxInodes uint32
	_         uint32
}

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
	growTo := map[int64]func(root *os.File, blocks uint64) error{unix.EXT4_SUPER_MAGIC: growExt4, unix.XFS_SUPER_MAGIC: growXFS}[fs.Type]
	if growTo == nil {
		return fmt.Errorf("its file system is of type %#x; only ext4 and XFS can grow: %w", uint64(fs.Type), errdefs.ErrNotImplemented)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(root.Fd()), &st); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	if err := awaitSize(ctx, st.Dev, size); err != nil {
		return err
	}
	return growTo(root, size/uint64(fs.Bsize))
}

func growExt4(root *os.File, blocks uint64) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, root.Fd(), ext4Resize, uintptr(unsafe.Pointer(&blocks))); errno != 0 {
		return fmt.Errorf("grow ext4 to %d blocks: %w", blocks, errno)
	}
	return nil
}

// growXFS lets XFS grow and leaves the rest of what the request sets as it is. It
// never shrinks: the kernel would for a number a little smaller.
func growXFS(root *os.File, blocks uint64) error {
	var now xfsGeometryV1
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, root.Fd(), xfsGeometry, uintptr(unsafe.Pointer(&now))); errno != 0 {
		return fmt.Errorf("read the geometry of XFS: %w", errno)
	}
	if blocks <= now.DataBlocks {
		return nil
	}
	to := xfsGrowth{Blocks: blocks, MaxInodes: now.MaxInodes}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, root.Fd(), xfsGrow, uintptr(unsafe.Pointer(&to))); errno != 0 {
		return fmt.Errorf("grow XFS from %d blocks to %d: %w", now.DataBlocks, blocks, errno)
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
