package clhtest

import (
	"os"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/kata-cc/kata-cc/hypervisor"
)

// testResize gives a machine another size, and then a disk of it.
func testResize(t *testing.T, m Machine) {
	m.Spec.MaxVCPUs, m.Spec.MaxMemoryMiB = m.Spec.VCPUs+2, m.Spec.MemoryMiB+512
	h := boot(t, m)
	h.grow()
	h.resizeDisk()
}

// grow adds processors and memory, and asks for less and for too much.
func (h *host) grow() {
	t, spec := h.t, h.m.Spec
	for _, step := range []struct{ ask, get hypervisor.Size }{
		{hypervisor.Size{VCPUs: spec.VCPUs, MemoryMiB: spec.MemoryMiB}, hypervisor.Size{VCPUs: spec.VCPUs, MemoryMiB: spec.MemoryMiB}},
		{hypervisor.Size{VCPUs: spec.VCPUs + 1, MemoryMiB: spec.MemoryMiB + 200}, hypervisor.Size{VCPUs: spec.VCPUs + 1, MemoryMiB: spec.MemoryMiB + 256}},
		{hypervisor.Size{VCPUs: spec.VCPUs + 2, MemoryMiB: spec.MemoryMiB}, hypervisor.Size{VCPUs: spec.VCPUs + 2, MemoryMiB: spec.MemoryMiB + 256}},
	} {
		for range 2 { // what the VMM then says it has is what is asked for
			if got, err := h.vm.Resize(t.Context(), step.ask); err != nil || got != step.get {
				t.Errorf("resize to %+v: %+v, %v, want %+v", step.ask, got, err, step.get)
			}
		}
	}
	for _, much := range []hypervisor.Size{{VCPUs: spec.VCPUs + 3, MemoryMiB: spec.MemoryMiB}, {VCPUs: spec.VCPUs + 2, MemoryMiB: spec.MemoryMiB + 640}} {
		if got, err := h.vm.Resize(t.Context(), much); !errdefs.IsResourceExhausted(err) || got.VCPUs != spec.VCPUs+2 || got.MemoryMiB != spec.MemoryMiB+256 {
			t.Errorf("resize to %+v: %+v, %v", much, got, err)
		}
	}
	// Processors that stay are no error, memory stays always.
	got, err := h.vm.Resize(t.Context(), hypervisor.Size{VCPUs: spec.VCPUs, MemoryMiB: spec.MemoryMiB})
	if err != nil || got.VCPUs != spec.VCPUs && got.VCPUs != spec.VCPUs+2 || got.MemoryMiB != spec.MemoryMiB+256 {
		t.Errorf("less: %+v, %v", got, err)
	}
}

// resizeDisk gives a disk another size, or checks that a version that cannot says so.
func (h *host) resizeDisk() {
	t := h.t
	disk := h.disk("volume")
	disk.ReadOnly = false
	if _, err := h.vm.HotplugDisk(t.Context(), disk); err != nil {
		t.Fatal(err)
	}
	size := func() int64 {
		info, err := os.Stat(h.layer)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	err := h.vm.ResizeDisk(t.Context(), "volume", 1<<20)
	if errdefs.IsNotImplemented(err) {
		if size() != 8192 {
			t.Errorf("the file has %d bytes after %v", size(), err)
		}
		t.Logf("no resizing: %v", err)
		return
	}
	if err != nil || size() != 1<<20 {
		t.Errorf("the file has %d bytes, want 1 MiB: %v", size(), err)
	}
	if err := h.vm.ResizeDisk(t.Context(), "volume", 1<<20); err != nil {
		t.Errorf("the same size again: %v", err)
	}
	if err := h.vm.ResizeDisk(t.Context(), "volume", 1<<20+1); !errdefs.IsInternal(err) || size() != 1<<20 {
		t.Errorf("a part of a sector: %v, and the file has %d bytes", err, size())
	}
	if err := h.vm.ResizeDisk(t.Context(), "other", 1<<20); !errdefs.IsNotFound(err) {
		t.Errorf("a disk that is not there: %v", err)
	}
	h.unplug("volume")
	if err := h.vm.ResizeDisk(t.Context(), "volume", 1<<20); !errdefs.IsNotFound(err) {
		t.Errorf("a disk that is gone: %v", err)
	}
}
