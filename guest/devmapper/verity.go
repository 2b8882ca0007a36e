package devmapper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/internal/undo"
	"github.com/kata-cc/kata-cc/verity"
)

const (
	sector    = 512
	blockSize = 4096

	removeTimeout = 2 * time.Second // while a reader may still close the device
	removePoll    = 10 * time.Millisecond
)

// Device is an open dm-verity device: whatever is read from it has been checked
// against the root hash.
type Device struct {
	Name string // in the device mapper
	Path string // of the node, /dev/mapper/<Name>
	Size int64  // of the verified data in bytes
}

// OpenVerity makes the device name over the disk, whose data, tree and
// superblock must fill it exactly. It reads the first and the last block, so a
// wrong root hash shows here. The options are the target's ("panic_on_corruption").
func OpenVerity(ctx context.Context, disk, name, rootHash string, options ...string) (d *Device, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("open dm-verity of layer %s on %s with root hash %s: %w", name, disk, rootHash, err)
		}
	}()
	super, err := readSuperblock(disk)
	if err != nil {
		return nil, err
	}
	params, err := super.Params(disk, rootHash)
	if err != nil {
		return nil, err
	}
	if len(options) > 0 {
		params += fmt.Sprintf(" %d %s", len(options), strings.Join(options, " "))
	}
	var back undo.Stack
	defer back.OnError(ctx, &err)

	answer, err := do(cmdDevCreate, name, flagReadOnly, nil)
	if err != nil {
		return nil, err
	}
	d = &Device{Name: name, Path: filepath.Join("/dev/mapper", name), Size: super.DataSize()}
	back.Add(d.Close)
	table := &Target{Length: uint64(d.Size / sector), Type: "verity", Params: params}
	if _, err := do(cmdTableLoad, name, flagReadOnly, table); err != nil {
		return nil, err
	}
	if _, err := do(cmdDevSuspend, name, flagReadOnly, nil); err != nil {
		return nil, err
	}
	if err := unix.Mknod(d.Path, unix.S_IFBLK|0o440, int(answeredDev(answer))); err != nil && err != unix.EEXIST {
		return nil, fmt.Errorf("make device node %s: %w", d.Path, err)
	}
	if err := d.probe(); err != nil {
		return nil, err
	}
	return d, nil
}

func readSuperblock(disk string) (verity.Superblock, error) {
	f, err := os.Open(disk)
	if err != nil {
		return verity.Superblock{}, err
	}
	defer f.Close()
	size, err := f.Seek(0, unix.SEEK_END)
	if err != nil {
		return verity.Superblock{}, err
	}
	if size < blockSize {
		return verity.Superblock{}, fmt.Errorf("Block device (%s) is too small: %d bytes: %w", disk, size, errdefs.ErrInvalidArgument)
	}
	return verity.ReadSuperblock(f, size)
}

// probe reads the first and the last block.
func (d *Device) probe() error {
	f, err := os.Open(d.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, blockSize)
	for _, at := range []int64{0, d.Size - blockSize} {
		if _, err := f.ReadAt(buf, at); err != nil {
			if errors.Is(err, unix.EIO) {
				return fmt.Errorf("the data at byte %d does not match the root hash: %w", at, errors.Join(err, errdefs.ErrDataLoss))
			}
			return fmt.Errorf("read byte %d: %w", at, err)
		}
	}
	return nil
}

// Close removes the device and its node. One that is gone is success; one that
// is still in use is removed when its last user closes it.
func (d *Device) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	for {
		_, err := do(cmdDevRemove, d.Name, 0, nil)
		if errors.Is(err, unix.EBUSY) {
			select {
			case <-time.After(removePoll):
				continue
			case <-ctx.Done():
				_, err = do(cmdDevRemove, d.Name, flagDeferred, nil)
			}
		}
		if errors.Is(err, unix.ENXIO) {
			err = nil
		}
		if rm := os.Remove(d.Path); rm != nil && !errors.Is(rm, os.ErrNotExist) {
			err = errors.Join(err, rm)
		}
		return err
	}
}

// Table is the device's table as the kernel has it.
func (d *Device) Table() (Target, error) {
	answer, err := do(cmdTableStatus, d.Name, flagStatusTable, nil)
	if err != nil {
		return Target{}, err
	}
	return answeredTable(answer), nil
}
