package clh_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/hypervisor/clh"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

// confidential makes the machine of h one with protected memory.
func (h *host) confidential() {
	h.spec.Kernel, h.spec.Initrd, h.spec.Image = "", "", h.file("image")
	h.spec.Confidential = &hypervisor.Confidential{IGVM: h.file("igvm"), HostData: strings.Repeat("0f", 32)}
}

func TestProtectedMachineBoots(t *testing.T) {
	for _, version := range []string{"40", "46", "51.1.0", "53.0.0"} {
		t.Run(version, func(t *testing.T) {
			h := newHost(t, memory.Script{Version: version, Features: []string{"igvm", "sev_snp"}})
			h.confidential()
			vm := h.boot()
			if at, err := vm.HotplugDisk(t.Context(), h.disk("layer")); err != nil {
				t.Errorf("a layer: %s, %v", at, err)
			}
		})
	}
}

func TestVMMThatCannotProtectIsRefused(t *testing.T) {
	for _, features := range [][]string{nil, {"sev_snp"}, {"igvm", "kvm"}} {
		mark := filepath.Join(t.TempDir(), "created")
		h := newHost(t, memory.Script{Features: features, Faults: []memory.Fault{{Endpoint: "vm.create", Do: "delay", Mark: mark}}})
		h.confidential()
		_, err := clh.New(h.o).Launch(t.Context(), h.spec)
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "protected memory cannot be had") {
			t.Errorf("features %q: %v, want failed precondition", features, err)
		}
		if _, err := os.Stat(mark); err == nil {
			t.Errorf("features %q: the machine was described to a VMM that cannot make it", features)
		}
	}
}

// TestVMMThatForgetsProtectionIsRefused: what vm.info says is what will run.
func TestVMMThatForgetsProtectionIsRefused(t *testing.T) {
	hostData := strings.Repeat("0f", 32)
	for name, tc := range map[string]struct {
		state, platform, payload string
		call                     int
		want                     string
	}{
		"sev_snp":           {"Created", `{"sev_snp":false}`, `"igvm":%q,"host_data":"` + hostData + `"`, 1, "platform.sev_snp is false"},
		"platform":          {"Created", `null`, `"igvm":%q,"host_data":"` + hostData + `"`, 1, "platform.sev_snp is false"},
		"igvm":              {"Created", `{"sev_snp":true}`, `"kernel":%q,"host_data":"` + hostData + `"`, 1, "payload.igvm"},
		"host_data":         {"Created", `{"sev_snp":true}`, `"igvm":%q,"host_data":"` + strings.Repeat("00", 32) + `"`, 1, "payload.host_data"},
		"host_data at boot": {"Running", `{"sev_snp":true}`, `"igvm":%q`, 2, "payload.host_data"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, memory.Script{Features: []string{"igvm", "sev_snp"}})
			h.confidential()
			h.script.Faults = []memory.Fault{{Endpoint: "vm.info", Call: tc.call, Do: "fail", Status: 200, Text: fmt.Sprintf(
				`{"state":%q,"config":{"platform":%s,"payload":{`+tc.payload+`}},"device_tree":{}}`, tc.state, tc.platform, h.spec.Confidential.IGVM)}}
			h.writeScript()
			vm, err := clh.New(h.o).Launch(t.Context(), h.spec)
			if tc.call == 2 && err == nil {
				defer vm.Stop(t.Context())
				err = vm.Boot(t.Context())
			}
			if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want failed precondition and %q", err, tc.want)
			}
		})
	}
}

func TestProtectedMachineThatCannotBe(t *testing.T) {
	h := newHost(t, memory.Script{Features: []string{"igvm", "sev_snp"}})
	h.confidential()
	for name, change := range map[string]func(*hypervisor.Spec){
		"no launch image": func(s *hypervisor.Spec) { s.Confidential.IGVM = "" },
		"no host data":    func(s *hypervisor.Spec) { s.Confidential.HostData = "" },
		"short host data": func(s *hypervisor.Spec) { s.Confidential.HostData = "0f" },
		"text":            func(s *hypervisor.Spec) { s.Confidential.HostData = strings.Repeat("xy", 32) },
		"kernel":          func(s *hypervisor.Spec) { s.Kernel = "/k" },
		"initrd":          func(s *hypervisor.Spec) { s.Initrd = "/i" },
		"parameters":      func(s *hypervisor.Spec) { s.KernelParams = "quiet" },
		"no root disk":    func(s *hypervisor.Spec) { s.Image = "" },
	} {
		spec := h.spec
		c := *spec.Confidential
		spec.Confidential = &c
		change(&spec)
		if _, err := clh.New(h.o).Launch(t.Context(), spec); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v, want invalid argument", name, err)
		}
	}
}
