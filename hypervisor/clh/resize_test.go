package clh_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/hypervisor/clh/api"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

var sizeVersions = []string{"40.0.0", "46.0.0", "51.1.0", "53.0.0", "54.0.0"}

// growing boots a machine of 1 vCPU and 256 MiB that may have 4 and 2304.
func growing(t *testing.T, script memory.Script) (*host, hypervisor.VM) {
	t.Helper()
	h := newHost(t, script)
	h.spec.MemoryMiB, h.spec.MaxVCPUs, h.spec.MaxMemoryMiB = 256, 4, 2304
	return h, h.boot()
}

func (h *host) wantSize(want hypervisor.Size) {
	h.t.Helper()
	var info api.VmInfo
	h.call(http.MethodGet, "vm.info", &info)
	if got := (hypervisor.Size{VCPUs: uint32(info.Config.Cpus.BootVcpus), MemoryMiB: info.Config.Memory.Size >> 20}); got != want {
		h.t.Errorf("the VMM says the machine has %+v, want %+v", got, want)
	}
}

func TestResizeInEveryVersion(t *testing.T) {
	for _, version := range sizeVersions {
		t.Run(version, func(t *testing.T) {
			h, vm := growing(t, memory.Script{Version: version, EjectCPUs: memory.Duration(100 * time.Millisecond)})
			for _, step := range []struct{ ask, get hypervisor.Size }{
				{hypervisor.Size{VCPUs: 1, MemoryMiB: 256}, hypervisor.Size{VCPUs: 1, MemoryMiB: 256}},
				{hypervisor.Size{VCPUs: 4, MemoryMiB: 300}, hypervisor.Size{VCPUs: 4, MemoryMiB: 384}},
				{hypervisor.Size{VCPUs: 2, MemoryMiB: 128}, hypervisor.Size{VCPUs: 2, MemoryMiB: 384}}, // memory stays
				{hypervisor.Size{VCPUs: 1, MemoryMiB: 384}, hypervisor.Size{VCPUs: 2, MemoryMiB: 384}}, // two leave already
				{hypervisor.Size{VCPUs: 3, MemoryMiB: 384}, hypervisor.Size{VCPUs: 3, MemoryMiB: 384}}, // once they have left
			} {
				got, err := vm.Resize(t.Context(), step.ask)
				if err != nil || got != step.get {
					t.Fatalf("resize to %+v: %+v, %v, want %+v", step.ask, got, err, step.get)
				}
				h.wantSize(step.get)
			}
			for _, much := range []hypervisor.Size{{VCPUs: 5, MemoryMiB: 384}, {VCPUs: 3, MemoryMiB: 2400}, {MemoryMiB: 384}} {
				got, err := vm.Resize(t.Context(), much)
				if !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "1 to 4 vCPUs and at most 2304 MiB") || got.VCPUs != 3 {
					t.Errorf("resize to %+v: %+v, %v", much, got, err)
				}
			}
			h.wantSize(hypervisor.Size{VCPUs: 3, MemoryMiB: 384})
		})
	}
}

func TestResizeThatIsRefused(t *testing.T) {
	for _, version := range sizeVersions {
		for _, status := range []int{500, 429} {
			t.Run(fmt.Sprint(version, "/", status), func(t *testing.T) {
				h, vm := growing(t, memory.Script{Version: version, Faults: []memory.Fault{
					{Endpoint: "vm.resize", Call: 1, Do: "fail", Status: status, Text: "no"},
				}})
				want := hypervisor.Size{VCPUs: 1, MemoryMiB: 512}
				if got, err := vm.Resize(t.Context(), want); !errdefs.IsResourceExhausted(err) || got.MemoryMiB != 256 {
					t.Errorf("%+v, %v", got, err)
				}
				h.wantSize(hypervisor.Size{VCPUs: 1, MemoryMiB: 256})
				if got, err := vm.Resize(t.Context(), want); err != nil || got != want {
					t.Errorf("again: %+v, %v", got, err)
				}
			})
		}
	}
}

// The VMM has given the memory when it refuses the processors: both is told.
func TestResizeThatIsHalfRefused(t *testing.T) {
	_, vm := growing(t, memory.Script{Version: "46", Faults: []memory.Fault{{Endpoint: "vm.resize", Call: 2, Do: "fail", Status: 500}}})
	got, err := vm.Resize(t.Context(), hypervisor.Size{VCPUs: 2, MemoryMiB: 512})
	if !errdefs.IsResourceExhausted(err) || got != (hypervisor.Size{VCPUs: 1, MemoryMiB: 512}) {
		t.Errorf("processors refused: %+v, %v", got, err)
	}
}

func TestResizeEndsWithItsCaller(t *testing.T) {
	h, vm := growing(t, memory.Script{Version: "51", EjectCPUs: memory.Never})
	for _, n := range []uint32{4, 2} {
		if _, err := vm.Resize(t.Context(), hypervisor.Size{VCPUs: n, MemoryMiB: 256}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := vm.Resize(ctx, hypervisor.Size{VCPUs: 3, MemoryMiB: 256}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while processors never leave: %v", err)
	}
	h.wantSize(hypervisor.Size{VCPUs: 2, MemoryMiB: 256})
}

func TestResizeOfAMachineThatDies(t *testing.T) {
	_, vm := growing(t, memory.Script{Faults: []memory.Fault{{Endpoint: "vm.resize", Do: "die"}}})
	if _, err := vm.Resize(t.Context(), hypervisor.Size{VCPUs: 2, MemoryMiB: 256}); !errors.Is(err, hypervisor.ErrGone) {
		t.Errorf("%v, want gone", err)
	}
}
