package conformance

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

func annotation(key, value string) change {
	return func(s *specs.Spec) { s.Annotations[key] = value }
}

const policyAnnotation = "io.katacontainers.config.agent.policy"

// protect configures machines with protected memory.
func (h *host) protect() {
	h.t.Helper()
	h.write("configuration.toml", fmt.Sprintf(`[hypervisor.clh]
path = %q
confidential_guest = true
sev_snp_guest = true
igvm = %q
image = %q
default_memory = 256
`, vmmBinary, h.write("kata.igvm", "igvm"), h.write("root.img", strings.Repeat("r", 4096))))
}

func TestProtectedPodIsBoundToItsPolicy(t *testing.T) {
	const policy = "package agent_policy\n"
	h := newHost(t, memory.Script{Features: []string{"igvm", "sev_snp"}})
	h.protect()
	s := h.pod("pod", annotation(policyAnnotation, base64.StdEncoding.EncodeToString([]byte(policy))))
	s.create(s.id, streams{}, h.layer("pause"))
	made := h.devices(s.id)
	if want := fmt.Sprintf("%x", sha256.Sum256([]byte(policy))); made.Payload.HostData != want || !made.Platform.SevSnp || made.Payload.Igvm != filepath.Join(h.dir, "kata.igvm") {
		t.Errorf("the machine is %+v, want the host data %s", made, want)
	}
	s.finish(s.id)
}

// TestMachinesThatCannotBe: what a pod asks for is refused with a reason that its
// author understands, and nothing is left of it.
func TestMachinesThatCannotBe(t *testing.T) {
	withPolicy := annotation(policyAnnotation, base64.StdEncoding.EncodeToString([]byte("package agent_policy\n")))
	for name, c := range map[string]struct {
		script memory.Script
		change change
		code   codes.Code
		want   string
	}{
		"no policy":                 {memory.Script{Features: []string{"igvm", "sev_snp"}}, args("pause"), codes.FailedPrecondition, policyAnnotation},
		"a VMM that cannot protect": {memory.Script{}, withPolicy, codes.FailedPrecondition, "protected memory cannot be had"},
		"more processors than there be": {memory.Script{}, func(s *specs.Spec) {
			withPolicy(s)
			s.Annotations["io.kubernetes.cri.sandbox-cpu-period"], s.Annotations["io.kubernetes.cri.sandbox-cpu-quota"] = "100000", "100000000"
		}, codes.InvalidArgument, "resources.limits.cpu"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, c.script)
			h.protect()
			s := h.pod("pod", c.change)
			err := s.tryCreate(h.ctx(), s.id, streams{}, h.layer("pause"))
			if status.Code(err) != c.code || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %s and %q", err, c.code, c.want)
			}
			s.shutdown(s.id)
		})
	}
}

func TestMoreLayersThanSlotsAreRefusedBeforeTheFirstPlug(t *testing.T) {
	h := newHost(t, memory.Script{})
	s := h.pod("pod")
	pause := h.layer("pause")
	s.create(s.id, streams{}, pause)
	s.run(s.id, "")
	id := h.id("many")
	s.attach(id)
	layers := make([]string, 279)
	for i := range layers {
		layers[i] = h.layer(fmt.Sprintf("layer %d", i))
	}
	err := s.tryCreate(h.ctx(), id, streams{}, layers...)
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "279 disks") || !strings.Contains(err.Error(), "278 free slots") {
		t.Errorf("%v, want resource exhausted with both numbers", err)
	}
	h.wantDisks(s.id, pause)
	if _, err := s.Delete(h.ctx(), &taskapi.DeleteRequest{ID: id}); err == nil {
		t.Error("a container that was refused can be deleted")
	}
	h.delete(id)
	s.finish(s.id)
}

// TestTimeOfACreateIsDividedOverItsPhases: the shim answers before its caller
// gives up, and says where the time went.
func TestTimeOfACreateIsDividedOverItsPhases(t *testing.T) {
	t.Parallel() // it waits
	h := newHost(t, memory.Script{Up: memory.Never, Console: "a guest that does not get far\n"})
	s := h.pod("pod")
	ctx, cancel := context.WithTimeout(h.ctx(), 12*time.Second)
	defer cancel()
	err := s.tryCreate(ctx, s.id, streams{}, h.layer("pause"))
	if status.Code(err) != codes.DeadlineExceeded || ctx.Err() != nil {
		t.Errorf("%v, want deadline exceeded before the caller's", err)
	}
	for _, want := range []string{"phase agent (network ", "vmm ", "boot ", "agent ", "that were left", "a guest that does not get far"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	s.shutdown(s.id)
}
