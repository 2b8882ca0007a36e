package image

import (
	"context"
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/kata-cc/kata-cc/guest/image/debian"
)

// kernelMeta always depends on the current kernel for virtual machines.
const kernelMeta = "linux-image-cloud-amd64"

// bootModules are loaded by the agent before anything else.
var bootModules = []string{
	"virtio_pci", "virtio_blk", "virtio_net", "virtio_rng",
	"vmw_vsock_virtio_transport",
	"dm_mod", "dm_verity", "sha256_ssse3",
	"fuse", "overlay", "ext4",
	"pvpanic_mmio", "pvpanic_pci", // tell the VMM of a panic: QEMU has the one, Cloud Hypervisor the other
}

// spareModules are in the image for modprobe: the agent loads them for a
// request, the kernel for a mount.
var spareModules = []string{
	"erofs", "loop", "tun", "virtiofs", "virtio_console", "virtio_scsi",
	"dm_crypt", "vsock_loopback",
	"bridge", // for a privileged container that makes one
}

// diskModules are spare ones of the root disk alone: what an initial ramdisk has
// lies in memory, used or not.
var diskModules = []string{"xfs"}

// kernel is a kernel package, opened.
type kernel struct {
	pkg     debian.Package
	vmlinuz debian.File
	modules moduleSet
}

// kernelPackage resolves the meta package to the package that has the kernel.
func kernelPackage(ctx context.Context, apt *debian.Apt) (debian.Package, error) {
	meta, err := apt.Show(ctx, kernelMeta)
	if err != nil {
		return debian.Package{}, err
	}
	for _, d := range meta[0].Depends {
		if strings.HasPrefix(d, "linux-image-") {
			found, err := apt.Show(ctx, d)
			if err != nil {
				return debian.Package{}, err
			}
			return found[0], nil
		}
	}
	return debian.Package{}, fmt.Errorf("%s %s depends on no linux-image-…: %w", meta[0].Name, meta[0].Version, errdefs.ErrNotFound)
}

// openKernel reads the kernel and its modules.
func openKernel(ctx context.Context, apt *debian.Apt, p debian.Package) (kernel, error) {
	files, err := apt.Open(ctx, p, func(name string) bool {
		return strings.HasPrefix(name, "/boot/vmlinuz-") || isModule(name) || path.Base(name) == "modules.builtin"
	})
	if err != nil {
		return kernel{}, err
	}
	k := kernel{pkg: p}
	for name, f := range files {
		if release, found := strings.CutPrefix(name, "/boot/vmlinuz-"); found {
			k.vmlinuz = f
			k.modules = newModuleSet(release, files)
		}
	}
	if k.vmlinuz.Data == nil {
		return kernel{}, fmt.Errorf("package %s %s: no /boot/vmlinuz-…: %w", p.Name, p.Version, errdefs.ErrNotFound)
	}
	if len(k.modules.builtin) == 0 {
		return kernel{}, fmt.Errorf("package %s %s: no modules.builtin: %w", p.Name, p.Version, errdefs.ErrNotFound)
	}
	return k, nil
}
