package conformance

import (
	"bufio"
	"os"
	"strings"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kata-cc/kata-cc/agentclient/agenttest"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

var allFlavours = []agenttest.Flavour{agenttest.Ours, agenttest.Azl1, agenttest.Azl5, agenttest.Upstream}

// containerd takes a status NotFound for the word that the whole task is gone,
// so a program that is missing must not have it.
func TestExecOfAMissingProgram(t *testing.T) {
	for _, flavour := range allFlavours {
		t.Run(string(flavour), func(t *testing.T) {
			h := newHost(t, memory.Script{})
			h.flavour = flavour
			s := h.running()
			s.agent.Script([]string{"nope"}, agenttest.Script{Missing: true})
			s.exec(s.id, "e", streams{}, "nope")
			_, err := s.Start(h.ctx(), &taskapi.StartRequest{ID: s.id, ExecID: "e"})
			if status.Code(err) != codes.Unknown && status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "nope") {
				t.Errorf("start: %v (%v)", err, status.Code(err))
			}
			if got := s.wait(s.id, "e"); got != 255 {
				t.Errorf("exit status %d, want that of a process that never ran", got)
			}
			s.remove(s.id, "e")
			s.exec(s.id, "e", streams{}, "true") // the container is none the worse for it
			s.run(s.id, "e")
			if got := s.wait(s.id, "e"); got != 0 {
				t.Errorf("the next exec ended with %d", got)
			}
			s.finish(s.id)
		})
	}
}

// A policy that hides the logs costs the workload nothing, however much it says.
// An azl1 agent keeps what it may not tell, so there only what fits into its
// pipe passes: no shim can empty that.
func TestHiddenOutputBlocksNobody(t *testing.T) {
	for _, flavour := range allFlavours {
		t.Run(string(flavour), func(t *testing.T) {
			h := newHost(t, memory.Script{})
			h.flavour = flavour
			s := h.single("one", args("secretive"))
			s.agent.DenyRead()
			text := strings.Repeat("s", 1<<20)
			if flavour == agenttest.Azl1 {
				text = text[:60<<10]
			}
			s.agent.Script([]string{"secretive"}, agenttest.Script{Stdout: text, Stderr: text, Exit: 3})
			stdout, stderr := h.fifo("out"), h.fifo("err")
			out, errs := h.read(stdout), h.read(stderr)
			s.create(s.id, streams{stdout: stdout, stderr: stderr}, h.layer("base"))
			s.run(s.id, "")
			if got := s.wait(s.id, ""); got != 3 {
				t.Errorf("exit status %d", got)
			}
			if o, e := out.all(t), errs.all(t); o+e != "" {
				t.Errorf("%d bytes of output and %d of errors got out", len(o), len(e))
			}
			s.remove(s.id, "")
			s.shutdown(s.id)
		})
	}
}

// Somebody attaches, leaves, and another attaches: each may write, and the one
// who is there sees the output.
func TestDetachAndAttachAgain(t *testing.T) {
	h := newHost(t, memory.Script{})
	s := h.single("one", args("cat"))
	stdin, stdout := h.fifo("in"), h.fifo("out")
	opened := make(chan *os.File, 1)
	go func() {
		f, err := os.Open(stdout) // waits for the shim
		if err != nil {
			t.Error(err)
		}
		opened <- f
	}()
	s.create(s.id, streams{stdin: stdin, stdout: stdout}, h.layer("base"))
	s.run(s.id, "")
	reader := <-opened
	for _, text := range []string{"first\n", "second\n", "third\n"} {
		if reader == nil {
			var err error
			if reader, err = os.Open(stdout); err != nil {
				t.Fatal(err)
			}
		}
		in, err := os.OpenFile(stdin, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := in.WriteString(text); err != nil {
			t.Fatal(err)
		}
		if got, err := bufio.NewReader(reader).ReadString('\n'); got != text || err != nil {
			t.Errorf("came back %q, %v; want %q", got, err, text)
		}
		in.Close()
		reader.Close()
		reader = nil
	}
	if state, err := s.State(h.ctx(), &taskapi.StateRequest{ID: s.id}); err != nil || state.Status.String() != "RUNNING" {
		t.Errorf("with nobody attached: %v, %v", state, err)
	}
	if _, err := s.CloseIO(h.ctx(), &taskapi.CloseIORequest{ID: s.id, Stdin: true}); err != nil {
		t.Fatal(err)
	}
	if got := s.wait(s.id, ""); got != 0 {
		t.Errorf("exit status %d", got)
	}
	s.remove(s.id, "")
	s.shutdown(s.id)
}

// A process may say nothing and hear nothing for as long as it likes: what waits
// for it in the guest has no time limit.
func TestNothingThatWaitsForAProcessHasALimit(t *testing.T) {
	h := newHost(t, memory.Script{})
	s := h.running()
	stdin, stdout, stderr := h.fifo("in"), h.fifo("out"), h.fifo("err")
	out, errs := h.read(stdout), h.read(stderr)
	s.exec(s.id, "e", streams{stdin: stdin, stdout: stdout, stderr: stderr}, "cat")
	s.run(s.id, "e")
	if _, err := s.CloseIO(h.ctx(), &taskapi.CloseIORequest{ID: s.id, ExecID: "e", Stdin: true}); err != nil {
		t.Fatal(err)
	}
	s.wait(s.id, "e")
	out.all(t)
	errs.all(t)
	patient := map[string]bool{"ReadStdout": false, "ReadStderr": false, "WaitProcess": false, "GetOOMEvent": false}
	for _, c := range s.agent.Calls() {
		if _, ok := patient[c.RPC]; !ok {
			continue
		}
		patient[c.RPC] = true
		if c.Limit != 0 {
			t.Errorf("%s ends after %v", c.RPC, c.Limit)
		}
	}
	for rpc, seen := range patient {
		if !seen {
			t.Errorf("no %s was made", rpc)
		}
	}
	s.finish(s.id)
}
