package clh_test

import (
	"fmt"
	"testing"

	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

// BenchmarkHotplug plugs layers one after the other into a machine that answers
// at once: what is left is our own share.
func BenchmarkHotplug(b *testing.B) {
	for _, n := range []int{30, 100, 250} {
		b.Run(fmt.Sprintf("%d-disks", n), func(b *testing.B) { benchmarkHotplug(b, n) })
	}
}

func benchmarkHotplug(b *testing.B, n int) {
	h := newHost(b, memory.Script{})
	path := h.file("layer")
	for b.Loop() {
		b.StopTimer()
		vm := h.launch()
		if err := vm.Boot(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		for i := range n {
			if _, err := vm.HotplugDisk(b.Context(), hypervisor.Disk{ID: fmt.Sprintf("layer%d", i), Path: path, ReadOnly: true}); err != nil {
				b.Fatal(err)
			}
		}
		b.StopTimer()
		if err := vm.Stop(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
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
