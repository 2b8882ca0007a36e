package conformance

import (
	"os"
	"path/filepath"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
	"github.com/kata-cc/kata-cc/shim/sandboxpb"
)

// A pod without a pause container, by containerd's sandbox service.
func TestSandboxService(t *testing.T) {
	h := newHost(t, memory.Script{})
	var err error
	if h.stdin, err = proto.Marshal(h.options()); err != nil {
		t.Fatal(err)
	}
	s := h.pod("pod")
	bundle := filepath.Join(h.dir, "bundles", s.id)
	pods := sandboxpb.NewSandboxClient(s.conn)
	create := &sandboxpb.CreateSandboxRequest{SandboxId: s.id, BundlePath: bundle}
	if _, err := pods.StartSandbox(h.ctx(), &sandboxpb.StartSandboxRequest{SandboxId: s.id}); status.Code(err) != codes.NotFound {
		t.Errorf("start before create: %v", err)
	}
	create.NetnsPath = "/run/netns/" + h.namespaceWithLink()
	if _, err := pods.CreateSandbox(h.ctx(), create); err != nil {
		t.Fatal(err)
	}
	before := h.write("bundles/"+s.id+"/hosts", "mine\n")
	if _, err := pods.CreateSandbox(h.ctx(), create); status.Code(err) != codes.AlreadyExists {
		t.Errorf("created twice: %v", err)
	}
	if text, err := os.ReadFile(before); err != nil || string(text) != "mine\n" {
		t.Errorf("a refused request rewrote a file of the pod: %q, %v", text, err)
	}
	started, err := pods.StartSandbox(h.ctx(), &sandboxpb.StartSandboxRequest{SandboxId: s.id})
	if err != nil || started.Pid == 0 {
		t.Fatalf("start: %v, %v", started, err)
	}
	state, err := pods.SandboxStatus(h.ctx(), &sandboxpb.SandboxStatusRequest{SandboxId: s.id})
	if err != nil || state.State != "SANDBOX_READY" || state.Pid != started.Pid {
		t.Errorf("status %v, %v", state, err)
	}
	id := s.runningMember("a")
	if _, err := pods.StopSandbox(h.ctx(), &sandboxpb.StopSandboxRequest{SandboxId: s.id}); err != nil {
		t.Error(err)
	}
	h.wantEvent("exit " + id + " " + id + " 137")
	if wait, err := pods.WaitSandbox(h.ctx(), &sandboxpb.WaitSandboxRequest{SandboxId: s.id}); err != nil || wait.ExitedAt == nil {
		t.Errorf("wait: %v, %v", wait, err)
	}
	s.remove(id, "")
	if _, err := s.Shutdown(h.ctx(), &taskapi.ShutdownRequest{ID: id}); err != nil { // the pod's shim lives on
		t.Error(err)
	}
	h.delete(id)
	if _, err := pods.ShutdownSandbox(h.ctx(), &sandboxpb.ShutdownSandboxRequest{SandboxId: s.id}); err != nil {
		t.Error(err)
	}
	h.delete(s.id)
}
