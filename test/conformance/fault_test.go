package conformance

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

// giveUp does what containerd does after a Create that failed.
func (s *shim) giveUp() {
	s.h.t.Helper()
	s.shutdown(s.id)
	s.disconnect()
}

func wantText(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", parts)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q\nlacks %q", err, p)
		}
	}
}

func TestMachineThatDiesTakesItsProcessesWithIt(t *testing.T) {
	h := newHost(t, memory.Script{})
	s := h.runningPod()
	a, b := h.id("a"), h.id("b")
	for _, id := range []string{a, b} {
		s.attach(id)
		s.create(id, streams{}, h.layer("base"))
	}
	s.run(a, "") // b is created only
	s.exec(a, "e", streams{}, "sleep", "inf")
	s.run(a, "e")
	for _, pid := range h.vmms() {
		unix.Kill(pid, unix.SIGKILL)
	}
	for _, id := range []string{s.id, a, b} {
		if got := s.wait(id, ""); got != 255 {
			t.Errorf("exit status of %s is %d", id, got)
		}
		h.wantEvent(fmt.Sprintf("exit %s %s 255", id, id))
	}
	h.wantEvent("exit " + a + " e 255")
	for _, id := range []string{a, b, s.id} {
		s.remove(id, "")
		s.shutdown(id)
	}
}

func TestGuestThatPowersOffOrPanics(t *testing.T) {
	for _, what := range []string{"poweroff", "reboot", "panic", "die"} {
		t.Run(what, func(t *testing.T) {
			h := newHost(t, memory.Script{Guest: []memory.Step{{After: memory.Duration(300 * time.Millisecond), Do: what}}})
			s := h.running()
			if got := s.wait(s.id, ""); got != 255 {
				t.Errorf("exit status %d", got)
			}
			s.remove(s.id, "")
			s.shutdown(s.id)
		})
	}
}

func TestAgentThatDies(t *testing.T) {
	h := newHost(t, memory.Script{})
	s := h.running()
	s.agent.DieAt("StatsContainer", 1)
	if _, err := s.Stats(h.ctx(), &taskapi.StatsRequest{ID: s.id}); err == nil {
		t.Error("a dead agent gave counters")
	}
	if got := s.wait(s.id, ""); got != 255 {
		t.Errorf("exit status %d", got)
	}
	s.remove(s.id, "")
	s.shutdown(s.id)
}

func TestCreateFailsAndLeavesNothing(t *testing.T) {
	hash := strings.Repeat("0", 64)
	for name, c := range map[string]struct {
		script memory.Script
		layer  func(h *host) string // returns the name of the layer
		before func(h *host, s *shim)
		want   []string
	}{
		"VMM dies at boot": {
			script: memory.Script{Console: "kernel is unhappy\n", Faults: []memory.Fault{{Endpoint: "vm.boot", Do: "die", Text: "thread panicked"}}},
			want:   []string{"boot the virtual machine"},
		},
		"boot fails": {
			script: memory.Script{Console: "kernel is unhappy\n", BootError: "no space"},
			want:   []string{"boot the virtual machine", "no space", "kernel is unhappy"},
		},
		"VMM dies at once": {
			script: memory.Script{Faults: []memory.Fault{{Endpoint: "vm.create", Do: "die", Status: 1, Text: "bad configuration"}}},
			want:   []string{"launch the virtual machine", "bad configuration"},
		},
		"agent never answers": {
			script: memory.Script{Console: "kernel is up, but\n", Vsock: map[uint32]string{1024: "/nowhere"}},
			before: func(h *host, s *shim) { h.configure(vmmBinary, "dial_timeout = 1\n") },
			want:   []string{"connect to the agent", "dial timeout of 1s", "kernel is up, but"},
		},
		"agent dies at the sandbox": {
			before: func(_ *host, s *shim) { s.agent.DieAt("CreateSandbox", 1) },
			want:   []string{"prepare the guest"},
		},
		"agent refuses the container": {
			before: func(_ *host, s *shim) {
				s.agent.Fail("CreateContainer", 1, status.Error(codes.PermissionDenied, "CreateContainerRequest is blocked by policy"))
			},
			want: []string{"blocked by policy"},
		},
		"hot-plug fails": {
			script: memory.Script{Faults: []memory.Fault{{Endpoint: "vm.add-disk", Do: "fail", Text: `["no more room"]`}}},
			want:   []string{"plug /", "no more room"},
		},
		"VMM dies at the hot-plug": {
			script: memory.Script{Faults: []memory.Fault{{Endpoint: "vm.add-disk", Do: "die"}}},
			want:   []string{"plug /"},
		},
		"layer is missing": {
			layer: func(*host) string { return hash },
			want:  []string{"layer file", hash, "no such file"},
		},
		"layer is truncated": {
			layer: func(h *host) string { h.write("layers/"+hash, strings.Repeat("x", 12289)); return hash },
			want:  []string{"layer file", hash, "12289", "4096"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, c.script)
			s := h.single("one")
			if c.before != nil {
				c.before(h, s)
			}
			layer := ""
			if c.layer != nil {
				layer = c.layer(h)
			} else {
				layer = h.layer("base")
			}
			err := s.tryCreate(h.ctx(), s.id, streams{}, layer)
			wantText(t, err, c.want...)
			t.Log(err)
			for pid, cmdline := range h.processes() {
				if pid != s.pid {
					t.Errorf("process %d is left after the error: %s", pid, cmdline)
				}
			}
			for _, dir := range []string{"/run/vc/vm/", "/run/vc/sbs/"} {
				if _, err := os.Stat(dir + s.id); err == nil {
					t.Errorf("%s is left after the error", dir+s.id)
				}
			}
			s.giveUp()
			h.wantEvents()
		})
	}
}

func TestLayerWithoutRootHash(t *testing.T) {
	h := newHost(t, memory.Script{})
	s := h.single("one")
	rootfs := h.rootfs(h.layer("base"))
	rootfs[0].Options[1] = "io.katacontainers.fs-opt.layer=" + base64Of(h.layer("base")+",tar,ro,io.katacontainers.fs-opt.block_device=file,io.katacontainers.fs-opt.is-layer")
	_, err := s.Create(h.ctx(), &taskapi.CreateTaskRequest{ID: s.id, Bundle: filepath.Join(h.dir, "bundles", s.id), Rootfs: rootfs, Options: h.options()})
	wantText(t, err, "root hash", h.layer("base"))
	if !isInvalidArgument(err) {
		t.Errorf("%v", err)
	}
	s.giveUp()
}

func TestLaterContainerThatFailsLeavesThePodAlone(t *testing.T) {
	h := newHost(t, memory.Script{})
	s := h.pod("pod")
	pause := h.layer("pause")
	s.create(s.id, streams{}, pause)
	s.run(s.id, "")
	id := h.id("a")
	s.attach(id)
	s.agent.Fail("CreateContainer", 1, status.Error(codes.Internal, "failed to mount"))
	wantText(t, s.tryCreate(h.ctx(), id, streams{}, h.layer("top"), h.layer("base")), "failed to mount", id)
	h.wantDisks(s.id, pause)
	h.delete(id)
	// Files may have been copied when one cannot be: the guest is told to let go.
	before := count(s.agent, "RemoveContainer")
	s.agent.Fail("CopyFile", 1, status.Error(codes.Internal, "no space"))
	wantText(t, s.tryCreate(h.ctx(), id, streams{}, h.layer("top"), h.layer("base")), "no space", id)
	if count(s.agent, "RemoveContainer") != before+1 {
		t.Errorf("a container whose files were copied in part is not removed: %v", s.agent.Names())
	}
	h.wantDisks(s.id, pause)
	h.delete(id)
	s.create(id, streams{}, h.layer("top"), h.layer("base"))
	s.run(id, "")
	s.finish(id)
	s.finish(s.id)
}

func TestCallerThatGoesAwayDuringCreate(t *testing.T) {
	t.Parallel() // it waits
	h := newHost(t, memory.Script{})
	s := h.single("one")
	release := s.agent.Hang("CreateSandbox", 1)
	defer release()
	ctx, cancel := context.WithTimeout(h.ctx(), 300*time.Millisecond)
	defer cancel()
	if err := s.tryCreate(ctx, s.id, streams{}, h.layer("base")); err == nil {
		t.Fatal("no error")
	}
	h.eventually("VMM and its directory gone", func() bool {
		_, err := os.Stat("/run/vc/vm/" + s.id)
		return len(h.vmms()) == 0 && os.IsNotExist(err)
	})
	if _, err := s.State(h.ctx(), &taskapi.StateRequest{ID: s.id}); !isNotFound(err) {
		t.Errorf("state: %v", err)
	}
	s.giveUp()
}

func TestOthersAnswerWhileACreateHangs(t *testing.T) {
	h := newHost(t, memory.Script{})
	s := h.runningPod()
	id := h.id("a")
	s.attach(id)
	release := s.agent.Hang("CreateContainer", 1)
	created := make(chan error)
	go func() { created <- s.tryCreate(h.ctx(), id, streams{}, h.layer("base")) }()
	h.eventually("layer plugged", func() bool { return len(h.disks(s.id)) == 2 })
	if _, err := s.State(h.ctx(), &taskapi.StateRequest{ID: s.id}); err != nil {
		t.Error(err)
	}
	if _, err := s.State(h.ctx(), &taskapi.StateRequest{ID: id}); !isNotFound(err) {
		t.Errorf("state of a container that is being created: %v", err)
	}
	if err := s.tryCreate(h.ctx(), id, streams{}, h.layer("base")); !isAlreadyExists(err) {
		t.Errorf("created twice: %v", err)
	}
	s.exec(s.id, "e", streams{}, "true")
	s.run(s.id, "e")
	s.wait(s.id, "e")
	release()
	if err := <-created; err != nil {
		t.Fatal(err)
	}
	s.finish(id)
	s.finish(s.id)
}

func TestProcessThatOutlivesSIGKILL(t *testing.T) {
	t.Parallel() // it waits
	if testing.Short() {
		t.Skip("waits for a limit of 10 s")
	}
	h := newHost(t, memory.Script{})
	s := h.running()
	release := s.agent.Hang("SignalProcess", 1)
	defer release()
	if _, err := s.Kill(h.ctx(), &taskapi.KillRequest{ID: s.id, Signal: uint32(unix.SIGKILL)}); err != nil {
		t.Log(err) // the guest did not answer
	}
	s.wait(s.id, "")
	s.remove(s.id, "")
	s.shutdown(s.id)
}

func TestEventsAreSentUntilTheyAreTaken(t *testing.T) {
	h := newHost(t, memory.Script{})
	s := h.single("one")
	h.sink.close() // containerd is down
	os.Remove(filepath.Join(h.dir, "events.sock"))
	s.create(s.id, streams{}, h.layer("base"))
	s.run(s.id, "")
	s.exec(s.id, "e", streams{}, "true")
	s.run(s.id, "e")
	s.wait(s.id, "e")
	h.sink.listen(filepath.Join(h.dir, "events.sock"))
	s.finish(s.id)
	h.wantEvents("create "+s.id, "start "+s.id, "exec-added "+s.id+" e", "exec-started "+s.id+" e",
		"exit "+s.id+" e 0", "exit "+s.id+" "+s.id+" 137", "delete "+s.id+" 137")
}

func TestOutOfMemoryIsToldBeforeTheExit(t *testing.T) {
	h := newHost(t, memory.Script{})
	s := h.running()
	s.agent.OOM("unknown")
	s.agent.Finish(s.id, "", 128+9) // the kernel was quicker than the agent
	s.agent.OOM(s.id)
	s.wait(s.id, "")
	s.remove(s.id, "")
	s.shutdown(s.id)
	h.wantEvents("create "+s.id, "start "+s.id, "oom "+s.id, "exit "+s.id+" "+s.id+" 137", "delete "+s.id+" 137")
}
