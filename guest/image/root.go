package image

import (
	"bytes"
	"context"
	"fmt"

	"github.com/kata-cc/kata-cc/guest/image/cpio"
	"github.com/kata-cc/kata-cc/guest/image/erofs"
	"github.com/kata-cc/kata-cc/verity"
)

// openerModules are what the small ramdisk needs to open the root disk, and to
// tell the VMM if that fails.
var openerModules = []string{
	"virtio_pci", "virtio_blk", "dm_mod", "dm_verity", "sha256_ssse3", "erofs", "pvpanic_mmio", "pvpanic_pci",
}

// Root is the guest as a disk, and the ramdisk that opens it.
type Root struct {
	Disk   []byte // file system, dm-verity tree, superblock
	Initrd []byte // the opener and the modules that it needs
	Hash   string // dm-verity root hash of Disk
}

// RootInfo describes the files root.img and root-initrd.img.
type RootInfo struct {
	Hash   string    `json:"rootHash"`
	Disk   KernelSum `json:"disk"`
	Initrd KernelSum `json:"initrd"`
}

func (r *Root) info() RootInfo {
	return RootInfo{Hash: r.Hash, Disk: kernelSum(r.Disk), Initrd: kernelSum(r.Initrd)}
}

// makeRoot makes a disk of the guest's file system, and the ramdisk for it.
func makeRoot(ctx context.Context, t tree, k kernel, o Options) (*Root, error) {
	data, err := erofs.Make(t.entries(), o.Modified)
	if err != nil {
		return nil, err
	}
	r := &Root{}
	if r.Disk, r.Hash, err = protect(data); err != nil {
		return nil, err
	}
	opener := tree{}
	if err = opener.file("/init", 0o755, o.Opener, "opener"); err != nil {
		return nil, err
	}
	if err = opener.charDevice("/dev/console", 0o600, 5, 1); err != nil {
		return nil, err
	}
	for _, dir := range []string{"/proc", "/newroot"} {
		if err = opener.dir(dir, 0o755); err != nil {
			return nil, err
		}
	}
	modules, err := k.modules.order(ctx, openerModules)
	if err != nil {
		return nil, err
	}
	if err = opener.addModules(k.modules.release, modules, modules); err != nil {
		return nil, err
	}
	var initrd bytes.Buffer
	if err = cpio.Write(&initrd, opener.entries(), o.Modified); err != nil {
		return nil, err
	}
	r.Initrd = initrd.Bytes()
	return r, nil
}

// protect appends the dm-verity tree and superblock.
func protect(data []byte) ([]byte, string, error) {
	h := verity.NewHasher("")
	if _, err := h.Write(data); err != nil {
		return nil, "", err
	}
	var tail bytes.Buffer
	_, hash, err := h.Finish(&tail)
	if err != nil {
		return nil, "", fmt.Errorf("hash tree of the root disk: %w", err)
	}
	return append(data, tail.Bytes()...), hash, nil
}
