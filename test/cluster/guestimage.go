package cluster

import (
	"os"
	"path/filepath"
	"strings"
)

// GuestImage is the directory of a guest image.
type GuestImage string

// Debug is the image that clusters use: it has a debug console.
func (p Paths) Debug() GuestImage { return GuestImage(filepath.Join(p.Guest, "debug")) }

// Production is the image without a console and a shell.
func (p Paths) Production() GuestImage { return GuestImage(p.Guest) }

// RootDisk is the disk with the guest's root.
func (g GuestImage) RootDisk() string { return g.file("root.img") }

// OnDisk is what [hypervisor.clh] says of a guest on its root disk.
func (g GuestImage) OnDisk() map[string]any {
	hash, _ := os.ReadFile(g.file("root.hash")) // is there, or the cluster is not started
	return map[string]any{
		"initrd": g.file("root-initrd.img"), "image": g.RootDisk(),
		"kernel_params": "kata.root_hash=" + strings.TrimSpace(string(hash)),
	}
}

// OnRamdisk is the same for a guest that is one initial ramdisk.
func (g GuestImage) OnRamdisk() map[string]any {
	return map[string]any{"initrd": g.file("initrd.img"), "image": nil, "kernel_params": nil}
}

func (g GuestImage) files() []string {
	return []string{g.file("initrd.img"), g.RootDisk(), g.file("root-initrd.img"), g.file("root.hash")}
}

func (g GuestImage) file(name string) string { return filepath.Join(string(g), name) }
