package conformance

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

// growing prepares a host whose machines of 1 vCPU and 256 MiB follow their
// containers, to 4 vCPUs and 2 GiB.
func growing(t *testing.T, script memory.Script) *host {
	t.Helper()
	h := newHost(t, script)
	h.grow()
	return h
}

func (h *host) grow() {
	h.t.Helper()
	h.write("config.d/10-growing.toml", `[hypervisor.clh]
default_maxvcpus = 4
default_maxmemory = 2048
[runtime]
static_sandbox_resource_mgmt = false
`)
}

func resources(cpus float64, mib int64) *specs.LinuxResources {
	quota, period, bytes := int64(cpus*100000), uint64(100000), mib<<20
	return &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &quota, Period: &period}, Memory: &specs.LinuxMemory{Limit: &bytes}}
}

func limited(cpus float64, mib int64) change {
	return func(s *specs.Spec) { s.Linux.Resources = resources(cpus, mib) }
}

func (s *shim) wantSize(vcpus int, mib uint64) {
	s.h.t.Helper()
	if d := s.h.devices(s.id); d.Cpus.Boot != vcpus || d.Memory.Size != mib<<20 {
		s.h.t.Errorf("the machine has %d vCPUs and %d MiB, want %d and %d", d.Cpus.Boot, d.Memory.Size>>20, vcpus, mib)
	}
}

// onlined lists what the guest was asked to bring into use: processors, and
// whether memory too.
func (s *shim) onlined() (calls []string) {
	for _, c := range s.agent.Calls() {
		if r, ok := c.Request.(*agentpb.OnlineCPUMemRequest); ok {
			calls = append(calls, fmt.Sprintf("%d %t", r.NbCpus, !r.CpuOnly))
		}
	}
	return calls
}

func (s *shim) wantOnlined(want ...string) {
	s.h.t.Helper()
	if got := s.onlined(); !slices.Equal(got, want) {
		s.h.t.Errorf("the guest was asked to bring into use %q, want %q", got, want)
	}
}

func (s *shim) update(id string, r *specs.LinuxResources) error {
	s.h.t.Helper()
	return s.tryUpdate(s.h.ctx(), id, r)
}

func (s *shim) tryUpdate(ctx context.Context, id string, r *specs.LinuxResources) error {
	s.h.t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		s.h.t.Fatal(err)
	}
	_, err = s.Update(ctx, &taskapi.UpdateTaskRequest{
		ID: id, Resources: &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources", Value: text},
	})
	return err
}

func exhausted(err error) bool { return errdefs.IsResourceExhausted(errgrpc.ToNative(err)) }

// member attaches a container with limits to the pod.
func (s *shim) member(name string, cpus float64, mib int64) string {
	s.h.t.Helper()
	id := s.h.id(name)
	s.attach(id, limited(cpus, mib))
	return id
}

func TestMachineFollowsItsContainers(t *testing.T) {
	h := growing(t, memory.Script{Version: "51"})
	s := h.runningPod()
	s.wantSize(1, 256)
	if most := h.devices(s.id).Cpus.Max; most != 4 {
		t.Errorf("the machine can have %d vCPUs, want 4", most)
	}
	a, b, c := s.member("a", 1.5, 100), s.member("b", 0.5, 28), s.member("c", 0, 0)
	s.create(a, streams{}, h.layer("base"))
	s.wantSize(3, 384)
	s.create(b, streams{}, h.layer("base")) // both fit what there is
	s.create(c, streams{}, h.layer("base")) // and this one adds nothing
	s.wantSize(3, 384)
	s.wantOnlined("2 true")
	for _, id := range []string{a, b, c} {
		s.run(id, "")
	}
	if err := s.update(b, resources(1.5, 300)); err != nil {
		t.Fatal(err)
	}
	s.wantSize(4, 768)
	s.wantOnlined("2 true", "1 true")
	if err := s.update(b, &specs.LinuxResources{CPU: resources(0.5, 0).CPU}); err != nil { // memory is not named
		t.Fatal(err)
	}
	s.wantSize(3, 768)
	s.finish(a)
	s.wantSize(2, 768) // memory never shrinks
	s.finish(b)
	s.wantSize(1, 768)
	s.finish(c)
	s.wantOnlined("2 true", "1 true")
	d := s.member("d", 1, 64)
	s.create(d, streams{}, h.layer("base")) // needs no memory but what is there
	s.wantSize(2, 768)
	s.wantOnlined("2 true", "1 true", "1 false")
	s.run(d, "")
	s.finish(d)
	s.finish(s.id)
}

// A container without a pod has its own limits.
func TestMachineFollowsASingleContainer(t *testing.T) {
	h := growing(t, memory.Script{})
	s := h.single("one", limited(2, 128))
	s.create(s.id, streams{}, h.layer("base"))
	s.wantSize(3, 384)
	s.run(s.id, "")
	s.finish(s.id)
}

func TestMachineDoesNotOutgrowTheConfiguration(t *testing.T) {
	h := growing(t, memory.Script{})
	s := h.runningPod()
	for id, want := range map[string]string{s.member("cpus", 3.5, 0): "default_maxvcpus is 4", s.member("memory", 0, 3000): "default_maxmemory allows 2048 MiB"} {
		err := s.tryCreate(h.ctx(), id, streams{}, h.layer("base"))
		if !exhausted(err) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "resources.limits.") {
			t.Errorf("create: %v, want exhausted by %q", err, want)
		}
	}
	s.wantSize(1, 256)
	s.wantOnlined()
	id := s.member("fits", 1, 128)
	s.create(id, streams{}, h.layer("base"))
	s.run(id, "")
	if err := s.update(id, resources(4, 128)); !exhausted(err) {
		t.Errorf("update: %v", err)
	}
	s.wantSize(2, 384)
	if slices.Contains(s.agent.Names(), "UpdateContainer") {
		t.Error("the guest was asked for what the machine does not have")
	}
	s.finish(id)
	s.finish(s.id)
}

// What the VMM does not give the container does not get; the pod goes on.
func TestResizeThatTheVMMRefuses(t *testing.T) {
	h := growing(t, memory.Script{Version: "51", Faults: []memory.Fault{
		{Endpoint: "vm.resize", Call: 1, Do: "fail", Status: 500, Text: "no memory"},
		{Endpoint: "vm.resize", Call: 3, Do: "fail", Status: 500, Text: "no processors"}, // of a's second try: memory came first
	}})
	s := h.runningPod()
	a := s.member("a", 1, 128)
	for range 2 {
		if err := s.tryCreate(h.ctx(), a, streams{}, h.layer("base")); !exhausted(err) {
			t.Errorf("create: %v", err)
		}
		h.wantDisks(s.id, h.layer("pause"))
	}
	s.wantSize(1, 384) // memory that was given stays
	s.create(a, streams{}, h.layer("base"))
	s.wantSize(2, 384)
	s.run(a, "")
	s.finish(a)
	s.finish(s.id)
}

// A guest that cannot use what was added is asked again.
func TestGuestThatCannotUseWhatWasAdded(t *testing.T) {
	h := growing(t, memory.Script{})
	s := h.runningPod()
	s.agent.Fail("OnlineCPUMem", 1, status.Error(codes.Internal, "failed to online 1 CPU(s) after 100 retries"))
	a := s.member("a", 1, 128)
	err := s.tryCreate(h.ctx(), a, streams{}, h.layer("base"))
	if err == nil || !strings.Contains(err.Error(), "bring 1 vCPUs and 128 MiB of memory into use") {
		t.Errorf("create: %v", err)
	}
	s.wantSize(1, 384) // the processor was taken back
	s.create(a, streams{}, h.layer("base"))
	s.wantSize(2, 384)
	s.run(a, "")
	s.finish(a)
	s.finish(s.id)
}

// A policy that refuses the update leaves the machine as it was.
func TestUpdateThatThePolicyRefuses(t *testing.T) {
	h := growing(t, memory.Script{})
	s := h.runningPod()
	a := s.member("a", 1, 128)
	s.create(a, streams{}, h.layer("base"))
	s.run(a, "")
	s.agent.Fail("UpdateContainer", 1, status.Error(codes.PermissionDenied, `"UpdateContainerRequest is blocked by policy: "`))
	if err := s.update(a, resources(3, 128)); !errdefs.IsPermissionDenied(errgrpc.ToNative(err)) {
		t.Errorf("update: %v", err)
	}
	s.wantSize(2, 384)
	if err := s.update(a, resources(2, 128)); err != nil {
		t.Errorf("update that is allowed: %v", err)
	}
	s.wantSize(3, 384)
	s.finish(a)
	s.finish(s.id)
}
