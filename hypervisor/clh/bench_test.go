package clh_test

import (
	"fmt"
	"testing"

	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

// BenchmarkHotplug100Disks plugs a hundred layers one after the other into a
// machine that answers at once: what is left is our own share.
func BenchmarkHotplug100Disks(b *testing.B) {
	h := newHost(b, memory.Script{})
	h.o.PCISegments = 4
	path := h.file("layer")
	for b.Loop() {
		vm := h.launch()
		if err := vm.Boot(b.Context()); err != nil {
			b.Fatal(err)
		}
		for i := range 100 {
			if _, err := vm.HotplugDisk(b.Context(), hypervisor.Disk{ID: fmt.Sprintf("layer%d", i), Path: path, ReadOnly: true}); err != nil {
				b.Fatal(err)
			}
		}
		if err := vm.Stop(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLaunch is a machine's start and end around a VMM that does nothing.
func BenchmarkLaunch(b *testing.B) {
	h := newHost(b, memory.Script{})
	for b.Loop() {
		vm := h.launch()
		if err := vm.Boot(b.Context()); err != nil {
			b.Fatal(err)
		}
		if err := vm.Stop(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
