package conformance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/agentclient/agenttest"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

// The matrix lets one thing go wrong with one request, to the agent or to the
// VMM, in the life of a pod with one container and one exec. What the requests
// of containerd answer then differs; that they answer in time, that what was
// started is also told to have ended, and that nothing is left, does not.

// agentFaults are what can go wrong with a request to the agent.
var agentFaults = map[string]func(a *agenttest.Agent, rpc string, n int){
	"fails":   func(a *agenttest.Agent, rpc string, n int) { a.Fail(rpc, n, errors.New("no")) },
	"is late": func(a *agenttest.Agent, rpc string, n int) { a.Delay(rpc, n, 300*time.Millisecond) },
	"hangs":   func(a *agenttest.Agent, rpc string, n int) { a.Hang(rpc, n) },
	"dies":    func(a *agenttest.Agent, rpc string, n int) { a.DieAt(rpc, n) },
	"garbles": func(a *agenttest.Agent, rpc string, n int) { a.Garble(rpc, n) },
}

// agentCalls are the requests and how often each is made, at least, in the story.
var agentCalls = map[string]int{
	"CreateSandbox": 1, "GetGuestDetails": 1, "GetOOMEvent": 1, "CopyFile": 2, "CreateContainer": 2, "StartContainer": 2,
	"ExecProcess": 1, "ReadStdout": 1, "CloseStdin": 2, "SignalProcess": 2, "WaitProcess": 3, "RemoveContainer": 1, "DestroySandbox": 1,
}

// slow are cells that wait for a limit of ten seconds or more.
func slow(rpc, fault string) bool {
	return fault == "hangs" && slices.Contains([]string{"WaitProcess", "SignalProcess", "RemoveContainer", "StartContainer", "ExecProcess"}, rpc)
}

func TestMatrixOfAgentFaults(t *testing.T) {
	for rpc, most := range agentCalls {
		for n := 1; n <= most; n++ {
			for fault, inject := range agentFaults {
				t.Run(fmt.Sprintf("%s %d %s", rpc, n, fault), func(t *testing.T) {
					t.Parallel()
					if slow(rpc, fault) {
						t.Skip("covered by the stories of processes that outlive SIGKILL")
					}
					h := newHost(t, memory.Script{})
					s := h.pod("pod")
					inject(s.agent, rpc, n)
					h.liveAndDie(s)
					if calls := count(s.agent, rpc); calls < n {
						t.Errorf("the fault never happened: %d calls of %s", calls, rpc)
					}
				})
			}
		}
	}
}

// count is how often the agent was asked.
func count(a *agenttest.Agent, rpc string) int {
	n := 0
	for _, name := range a.Names() {
		if name == rpc {
			n++
		}
	}
	return n
}

// vmmCalls are the requests to the VMM and how often each is made in the story.
var vmmCalls = map[string]int{
	"vmm.ping": 1, "vm.create": 1, "vm.boot": 1, "vm.add-disk": 3, "vm.remove-device": 2, "vm.info": 2, "vmm.shutdown": 1,
}

func TestMatrixOfVMMFaults(t *testing.T) {
	for endpoint, most := range vmmCalls {
		for _, do := range []string{"fail", "fail-after", "delay", "late", "drop", "die", "die-after"} {
			for call := 1; call <= most; call++ {
				t.Run(fmt.Sprintf("%s %d %s", endpoint, call, do), func(t *testing.T) {
					t.Parallel()
					mark := filepath.Join(t.TempDir(), "happened")
					h := newHost(t, memory.Script{Faults: []memory.Fault{{
						Endpoint: endpoint, Call: call, Do: do, For: memory.Duration(200 * time.Millisecond), Mark: mark,
					}}})
					h.liveAndDie(h.pod("pod"))
					if _, err := os.Stat(mark); err != nil {
						t.Errorf("the fault never happened: %v", err)
					}
				})
			}
		}
	}
}

// liveAndDie walks a pod through its life as containerd would, whatever fails.
func (h *host) liveAndDie(s *shim) {
	h.t.Helper()
	id := h.id("a")
	created := map[string]bool{}
	create := func(id string, layers ...string) bool {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if err := s.tryCreate(ctx, id, streams{}, layers...); err != nil {
			return false
		}
		created[id] = true
		_, err := s.Start(h.ctx(), &taskapi.StartRequest{ID: id})
		return err == nil
	}
	if create(s.id, h.layer("pause")) && s.tryAttach(id) == nil && create(id, h.layer("top"), h.layer("base")) {
		stdout := h.fifo("out")
		h.read(stdout)
		if s.tryExec(id, "e", streams{stdout: stdout}, "sleep", "inf") == nil {
			_, _ = s.Start(h.ctx(), &taskapi.StartRequest{ID: id, ExecID: "e"})
			_, _ = s.Kill(h.ctx(), &taskapi.KillRequest{ID: id, ExecID: "e", Signal: uint32(unix.SIGKILL)})
		}
	}
	for _, id := range []string{id, s.id} {
		if created[id] {
			h.bury(s, id)
		}
	}
	s.shutdown(s.id)
	h.wantEveryExit(h.sink.list())
}

// bury kills and deletes a container until that is done.
func (h *host) bury(s *shim, id string) {
	h.t.Helper()
	_, _ = s.Kill(h.ctx(), &taskapi.KillRequest{ID: id, Signal: uint32(unix.SIGKILL), All: true})
	if _, err := s.Wait(h.ctx(), &taskapi.WaitRequest{ID: id}); err != nil {
		h.t.Errorf("wait for %s: %v", id, err)
	}
	for attempt := 1; ; attempt++ {
		_, err := s.Delete(h.ctx(), &taskapi.DeleteRequest{ID: id})
		if err == nil {
			return
		}
		if attempt == 3 {
			h.t.Errorf("delete %s: %v", id, err)
			return
		}
	}
}

// wantEveryExit checks that whatever the events tell to have started they tell to
// have ended, once, and after that.
func (h *host) wantEveryExit(events []string) {
	h.t.Helper()
	var open []string
	for _, e := range events {
		fields := strings.Fields(e)
		switch fields[0] {
		case "start":
			open = append(open, fields[1]+" "+fields[1])
		case "exec-started":
			open = append(open, fields[1]+" "+fields[2])
		case "exit":
			i := slices.Index(open, fields[1]+" "+fields[2])
			if i < 0 {
				if fields[1] != fields[2] { // a container may be killed before it is started
					h.t.Errorf("%s was not started", e)
				}
				continue
			}
			open = slices.Delete(open, i, i+1)
		}
	}
	if len(open) > 0 {
		h.t.Errorf("not told to have ended: %q; events %q", open, events)
	}
}
