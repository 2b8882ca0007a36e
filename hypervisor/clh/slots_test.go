package clh_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

// disks makes n disks of one file.
func (h *host) manyDisks(prefix string, n int) []hypervisor.Disk {
	h.t.Helper()
	path := h.file(prefix)
	disks := make([]hypervisor.Disk, n)
	for i := range disks {
		disks[i] = hypervisor.Disk{ID: fmt.Sprintf("%s-%d", prefix, i), Path: path, ReadOnly: true}
	}
	return disks
}

func TestPodOf250Layers(t *testing.T) {
	for _, version := range []string{"40", "46", "51.1.0", "53.0.0", "54"} {
		t.Run(version, func(t *testing.T) {
			h := newHost(t, memory.Script{Version: version})
			vm := h.boot()
			layers := h.manyDisks("layer", 250)
			if err := vm.Room(layers); err != nil {
				t.Fatal(err)
			}
			seen := map[hypervisor.BDF]bool{}
			for i, d := range layers {
				at, err := vm.HotplugDisk(t.Context(), d)
				if err != nil || seen[at] || at.Segment == 0 {
					t.Fatalf("layer %d: at %s, %v", i, at, err)
				}
				seen[at] = true
			}
			if got := len(h.disks()); got != len(layers) {
				t.Errorf("the VMM has %d disks, want %d", got, len(layers))
			}
			for _, d := range layers {
				if err := vm.UnplugDisk(t.Context(), d.ID); err != nil {
					t.Fatal(err)
				}
			}
			h.wantDisks()
		})
	}
}

func TestMoreDisksThanSlotsAreRefusedBeforeThePlug(t *testing.T) {
	h := newHost(t, memory.Script{})
	vm := h.boot()
	if _, err := vm.HotplugDisk(t.Context(), h.disk("first")); err != nil {
		t.Fatal(err)
	}
	if err := vm.Room(h.manyDisks("fits", 278)); err != nil {
		t.Errorf("room for as many as there are slots: %v", err)
	}
	err := vm.Room(h.manyDisks("too-many", 279))
	if !errdefs.IsResourceExhausted(err) {
		t.Errorf("%v, want resource exhausted", err)
	}
	for _, number := range []string{"279 disks", "278 free slots", "of 279"} {
		if err == nil || !strings.Contains(err.Error(), number) {
			t.Errorf("%v does not say %q", err, number)
		}
	}
	// Those for the root bus are counted by themselves.
	root := h.manyDisks("root", 30)
	for i := range root {
		root[i].RootBus = true
	}
	if err := vm.Room(root); !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "30 disks") {
		t.Errorf("30 on the root bus: %v", err)
	}
	h.wantDisks("first")
}

func TestMachineOfOneSegment(t *testing.T) {
	h := newHost(t, memory.Script{})
	h.o.PCISegments = 1
	vm := h.boot()
	if at, err := vm.HotplugDisk(t.Context(), h.disk("layer")); err != nil || at != (hypervisor.BDF{Device: 3}) { // rng, vsock
		t.Errorf("at %s, %v", at, err)
	}
}
