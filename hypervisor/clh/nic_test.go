package clh_test

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/hypervisor/clh/api"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

// nic is a card whose tap is a file.
func (h *host) nic(id string) hypervisor.NIC {
	h.t.Helper()
	f, err := os.Create(filepath.Join(h.dir, id+".tap"))
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { f.Close() })
	return hypervisor.NIC{ID: id, MAC: net.HardwareAddr{2, 0, 0, 0, 0, id[len(id)-1]}, Tap: f}
}

func (h *host) wantNICs(want ...string) {
	h.t.Helper()
	var info api.VmInfo
	h.call(http.MethodGet, "vm.info", &info)
	ids := []string{}
	if info.Config.Net != nil {
		for _, n := range *info.Config.Net {
			ids = append(ids, *n.Id)
		}
	}
	if !slices.Equal(ids, want) {
		h.t.Errorf("the VMM has the network cards %q, want %q", ids, want)
	}
}

func TestNICsComeAndGo(t *testing.T) {
	h := newHost(t, memory.Script{})
	cold := h.nic("net0")
	h.spec.NICs = []hypervisor.NIC{cold}
	vm := h.boot()
	hot := h.nic("net1")
	if err := vm.HotplugNIC(t.Context(), hot); err != nil {
		t.Fatal(err)
	}
	hot.Tap.Close() // ours to close
	h.wantNICs("net0", "net1")
	if err := vm.HotplugNIC(t.Context(), h.nic("net1")); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a second net1: %v", err)
	}
	if _, err := vm.HotplugDisk(t.Context(), h.disk("a")); err != nil {
		t.Errorf("a disk beside it: %v", err)
	}
	for _, nic := range []hypervisor.NIC{hot, cold} {
		for range 2 { // the second time there is none
			if err := vm.UnplugNIC(t.Context(), nic.ID); err != nil {
				t.Errorf("unplug: %v", err)
			}
		}
		if n := openIn(vm.Process().PID, nic.Tap.Name()); n != 0 {
			t.Errorf("the VMM has the tap of %s open %d times after the unplug", nic.ID, n)
		}
	}
	h.wantNICs()
	if err := vm.HotplugNIC(t.Context(), h.nic("net2")); err != nil {
		t.Errorf("a card after all were gone: %v", err)
	}
	h.wantNICs("net2")
}

func TestNICThatIsRefusedLeavesNothing(t *testing.T) {
	for name, fault := range map[string]memory.Fault{
		"refused":             {Endpoint: "vm.add-net", Call: 1, Do: "fail"},
		"answer lost":         {Endpoint: "vm.add-net", Call: 1, Do: "drop"},
		"plugged and refused": {Endpoint: "vm.add-net", Call: 1, Do: "fail-after"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, memory.Script{Faults: []memory.Fault{fault}})
			vm := h.boot()
			if err := vm.HotplugNIC(t.Context(), h.nic("net0")); err == nil {
				t.Error("no error")
			}
			h.wantNICs()
			if err := vm.HotplugNIC(t.Context(), h.nic("net1")); err != nil {
				t.Errorf("the next card: %v", err)
			}
			h.wantNICs("net1")
		})
	}
}
