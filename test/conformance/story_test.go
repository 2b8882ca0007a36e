package conformance

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/containerd/api/types/task"
	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/agentclient/agenttest"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

func TestSingleContainer(t *testing.T) {
	h := newHost(t, memory.Script{})
	s := h.single("one", args("echo", "hello"))
	stdout := h.fifo("out")
	out := h.read(stdout)
	s.create(s.id, streams{stdout: stdout}, h.layer("top"), h.layer("base"))
	state, err := s.State(h.ctx(), &taskapi.StateRequest{ID: s.id})
	if err != nil || state.Status != task.Status_CREATED || state.Pid == 0 || state.ExitedAt != nil {
		t.Fatalf("state after create: %v, %v", state, err)
	}
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", state.Pid))
	if err != nil || !strings.Contains(string(groups), "/"+h.prefix+"/"+s.id+"\n") {
		t.Errorf("the VMM runs in %s, %v", groups, err)
	}
	s.run(s.id, "")
	if got := s.wait(s.id, ""); got != 0 {
		t.Errorf("exit status %d", got)
	}
	if got := out.all(t); got != "hello\n" {
		t.Errorf("output %q", got)
	}
	state, err = s.State(h.ctx(), &taskapi.StateRequest{ID: s.id})
	if err != nil || state.Status != task.Status_STOPPED || state.ExitedAt == nil {
		t.Fatalf("state after exit: %v, %v", state, err)
	}
	s.remove(s.id, "")
	s.shutdown(s.id)
	h.wantEvents("create "+s.id, "start "+s.id, "exit "+s.id+" "+s.id+" 0", "delete "+s.id+" 0")
}

func TestPodSharesALayer(t *testing.T) {
	h := newHost(t, memory.Script{})
	s := h.pod("pod")
	pause, base, top := h.layer("pause"), h.layer("base"), h.layer("top")
	s.create(s.id, streams{}, pause)
	s.run(s.id, "")
	a, b := h.id("a"), h.id("b")
	for _, id := range []string{a, b} {
		s.attach(id)
	}
	s.create(a, streams{}, top, base)
	s.run(a, "")
	s.create(b, streams{}, base)
	s.run(b, "")
	h.wantDisks(s.id, pause, top, base)

	s.finish(a)
	h.wantDisks(s.id, pause, base)
	s.finish(b)
	h.wantDisks(s.id, pause)
	s.finish(s.id)

	want := []string{"CreateSandbox", "GetGuestDetails", "CopyFile", "CreateContainer", "StartContainer"}
	got := s.agent.Names("Check", "GetOOMEvent", "ReadStdout", "ReadStderr", "CloseStdin", "WaitProcess", "SetPolicy")
	if !slices.Equal(got[:len(want)], want) {
		t.Errorf("first calls %q, want %q", got[:len(want)], want)
	}
}

func TestLayerPluggedAgainHasAnotherName(t *testing.T) {
	h := newHost(t, memory.Script{})
	s := h.runningPod()
	for _, name := range []string{"a", "b"} {
		id := h.id(name)
		s.attach(id)
		s.create(id, streams{}, h.layer("base"))
		s.run(id, "")
		s.finish(id)
	}
	s.finish(s.id)
}

func TestEveryAgentIsServed(t *testing.T) {
	for _, flavour := range []agenttest.Flavour{agenttest.Ours, agenttest.Azl1, agenttest.Azl5, agenttest.Upstream} {
		t.Run(string(flavour), func(t *testing.T) {
			h := newHost(t, memory.Script{})
			h.flavour = flavour
			s := h.running()
			stdout := h.fifo("out")
			out := h.read(stdout)
			s.exec(s.id, "e", streams{stdout: stdout}, "echo", "hello")
			s.run(s.id, "e")
			if got := s.wait(s.id, "e"); got != 0 {
				t.Errorf("exit status %d", got)
			}
			if got := out.all(t); got != "hello\n" {
				t.Errorf("output %q", got)
			}
			s.remove(s.id, "e")
			s.finish(s.id)
		})
	}
}

func TestKillWaitDelete(t *testing.T) {
	h := newHost(t, memory.Script{})
	s := h.running()
	s.exec(s.id, "e", streams{}, "sleep", "inf")
	s.run(s.id, "e")

	if _, err := s.Delete(h.ctx(), &taskapi.DeleteRequest{ID: s.id}); !isFailedPrecondition(err) {
		t.Errorf("delete of a running container: %v", err)
	}
	if _, err := s.Start(h.ctx(), &taskapi.StartRequest{ID: s.id}); !isFailedPrecondition(err) {
		t.Errorf("start of a running container: %v", err)
	}
	s.kill(s.id, "", uint32(unix.SIGKILL))
	if got := s.wait(s.id, ""); got != 128+9 {
		t.Errorf("exit status %d", got)
	}
	s.kill(s.id, "", uint32(unix.SIGKILL)) // again
	if _, err := s.Kill(h.ctx(), &taskapi.KillRequest{ID: s.id, Signal: uint32(unix.SIGUSR1)}); !isNotFound(err) {
		t.Errorf("signal to a stopped container: %v", err)
	}
	if got := s.remove(s.id, ""); got != 128+9 {
		t.Errorf("exit status %d", got)
	}
	if got := s.remove(s.id, ""); got != 128+9 {
		t.Errorf("exit status %d, asked again", got)
	}
	s.shutdown(s.id)
	h.wantEvents("create "+s.id, "start "+s.id, "exec-added "+s.id+" e", "exec-started "+s.id+" e",
		"exit "+s.id+" e 137", "exit "+s.id+" "+s.id+" 137", "delete "+s.id+" 137")
}

func TestCreatedContainerCanBeKilled(t *testing.T) {
	h := newHost(t, memory.Script{})
	s := h.runningPod()
	id := h.id("a")
	s.attach(id)
	s.create(id, streams{}, h.layer("base"))
	s.finish(id)
	s.finish(s.id)
}

func TestShutdownWaitsForTheLastContainer(t *testing.T) {
	h := newHost(t, memory.Script{})
	s := h.runningPod()
	id := s.runningMember("a")
	if _, err := s.Shutdown(h.ctx(), &taskapi.ShutdownRequest{ID: id}); err != nil {
		t.Fatal(err)
	}
	h.delete(id) // its connection closed; the shim lives
	if _, err := s.Pids(h.ctx(), &taskapi.PidsRequest{ID: id}); err != nil {
		t.Fatal(err)
	}
	s.finish(id)
	s.finish(s.id)
}

func TestPausesAndResumes(t *testing.T) {
	h := newHost(t, memory.Script{})
	s := h.running()
	if _, err := s.Pause(h.ctx(), &taskapi.PauseRequest{ID: s.id}); err != nil {
		t.Fatal(err)
	}
	if state, err := s.State(h.ctx(), &taskapi.StateRequest{ID: s.id}); err != nil || state.Status != task.Status_PAUSED {
		t.Errorf("state %v, %v", state, err)
	}
	if _, err := s.Resume(h.ctx(), &taskapi.ResumeRequest{ID: s.id}); err != nil {
		t.Fatal(err)
	}
	s.finish(s.id)
	h.wantEvent("paused " + s.id)
	h.wantEvent("resumed " + s.id)
}

func TestTwoPodsAtOnce(t *testing.T) {
	h := newHost(t, memory.Script{})
	h.makeCgroup()
	a, b := h.pod("a"), h.pod("b")
	for _, s := range []*shim{a, b} {
		s.create(s.id, streams{}, h.layer("pause"))
		s.run(s.id, "")
	}
	if len(h.vmms()) != 2 || a.pid == b.pid {
		t.Errorf("%d VMMs, shims %d and %d", len(h.vmms()), a.pid, b.pid)
	}
	a.finish(a.id)
	if state, err := b.State(h.ctx(), &taskapi.StateRequest{ID: b.id}); err != nil || state.Status != task.Status_RUNNING {
		t.Errorf("the other is %v, %v", state, err)
	}
	b.finish(b.id)
}

func TestTwentyPodsOneAfterAnother(t *testing.T) {
	h := newHost(t, memory.Script{})
	for range 20 {
		func() {
			s := h.single("n" + string(rune('a'+len(h.shims))))
			s.create(s.id, streams{}, h.layer("base"))
			s.run(s.id, "")
			s.finish(s.id)
			s.disconnect()
			h.eventually("the end of shim and VMM", func() bool { return len(h.processes()) == 0 })
		}()
	}
}
