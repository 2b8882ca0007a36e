package conformance

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/agentclient/agenttest"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

func TestExecOutputAndStatus(t *testing.T) {
	h := newHost(t, memory.Script{})
	s := h.running()
	s.agent.Script([]string{"both"}, agenttest.Script{Stdout: "out", Stderr: "err", Exit: 7})
	stdout, stderr := h.fifo("out"), h.fifo("err")
	out, errs := h.read(stdout), h.read(stderr)
	s.exec(s.id, "e", streams{stdout: stdout, stderr: stderr}, "both")
	s.run(s.id, "e")
	if got := s.wait(s.id, "e"); got != 7 {
		t.Errorf("exit status %d", got)
	}
	if o, e := out.all(t), errs.all(t); o != "out" || e != "err" {
		t.Errorf("output %q, errors %q", o, e)
	}
	state, err := s.State(h.ctx(), &taskapi.StateRequest{ID: s.id, ExecID: "e"})
	if err != nil || state.ExecID != "e" || state.ID != s.id || state.ExitStatus != 7 || state.Stdout != stdout {
		t.Errorf("state %v, %v", state, err)
	}
	if got := s.remove(s.id, "e"); got != 7 {
		t.Errorf("deleted with exit status %d", got)
	}
	s.finish(s.id)
}

func TestExecIDCanBeUsedAgainButNotTwice(t *testing.T) {
	h := newHost(t, memory.Script{})
	s := h.running()
	for range 2 {
		s.exec(s.id, "e", streams{}, "true")
		if err := s.tryExec(s.id, "e", streams{}, "true"); !isAlreadyExists(err) {
			t.Errorf("second exec of the same id: %v", err)
		}
		s.run(s.id, "e")
		s.wait(s.id, "e")
		s.remove(s.id, "e")
	}
	s.exec(s.id, "never", streams{}, "true")
	if got := s.remove(s.id, "never"); got != 0 {
		t.Errorf("an exec that never ran has status %d", got)
	}
	s.finish(s.id)
}

func TestInputEndsOnlyWhenToldTo(t *testing.T) {
	h := newHost(t, memory.Script{})
	s := h.running()
	stdin, stdout := h.fifo("in"), h.fifo("out")
	out := h.read(stdout)
	s.exec(s.id, "e", streams{stdin: stdin, stdout: stdout}, "cat")
	s.run(s.id, "e")
	for _, text := range []string{"one ", "two"} { // two writers, one after the other
		f, err := os.OpenFile(stdin, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	if _, err := s.CloseIO(h.ctx(), &taskapi.CloseIORequest{ID: s.id, ExecID: "e", Stdin: true}); err != nil {
		t.Fatal(err)
	}
	if got := out.all(t); got != "one two" {
		t.Errorf("output %q", got)
	}
	s.wait(s.id, "e")
	s.finish(s.id)
}

func TestLargeRoundTrip(t *testing.T) {
	h := newHost(t, memory.Script{})
	s := h.running()
	stdin, stdout := h.fifo("in"), h.fifo("out")
	out := h.read(stdout)
	s.exec(s.id, "e", streams{stdin: stdin, stdout: stdout}, "cat")
	s.run(s.id, "e")
	text := bytes.Repeat([]byte("0123456789abcdef"), 20<<16) // 20 MiB
	f, err := os.OpenFile(stdin, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(text); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := s.CloseIO(h.ctx(), &taskapi.CloseIORequest{ID: s.id, ExecID: "e", Stdin: true}); err != nil {
		t.Fatal(err)
	}
	if got := out.all(t); sha256.Sum256([]byte(got)) != sha256.Sum256(text) {
		t.Errorf("%d of %d bytes came back", len(got), len(text))
	}
	s.wait(s.id, "e")
	s.finish(s.id)
}

func TestOutputBeforeAQuickExitArrivesWhole(t *testing.T) {
	for _, flavour := range []agenttest.Flavour{agenttest.Ours, agenttest.Azl1, agenttest.Upstream} {
		t.Run(string(flavour), func(t *testing.T) {
			h := newHost(t, memory.Script{})
			h.flavour = flavour
			s := h.running()
			text := strings.Repeat("x", 8<<20)
			s.agent.Script([]string{"much"}, agenttest.Script{Stdout: text})
			stdout := h.fifo("out")
			out := h.read(stdout)
			s.exec(s.id, "e", streams{stdout: stdout}, "much")
			s.run(s.id, "e")
			s.wait(s.id, "e")
			if got := out.all(t); len(got) != len(text) {
				t.Errorf("%d of %d bytes", len(got), len(text))
			}
			s.finish(s.id)
		})
	}
}

func TestReaderThatLeavesDoesNotHideTheExit(t *testing.T) {
	t.Parallel() // it waits
	h := newHost(t, memory.Script{})
	s := h.running()
	s.agent.Script([]string{"much"}, agenttest.Script{Stdout: strings.Repeat("x", 1<<20), Block: true})
	stdout := h.fifo("out")
	f, err := os.OpenFile(stdout, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	s.exec(s.id, "e", streams{stdout: stdout}, "much")
	s.run(s.id, "e")
	f.Close()
	s.kill(s.id, "e", uint32(unix.SIGKILL))
	if got := s.wait(s.id, "e"); got != 128+9 {
		t.Errorf("exit status %d", got)
	}
	s.finish(s.id)
}

func TestExitIsSeenThoughNobodyReads(t *testing.T) {
	t.Parallel() // it waits
	if testing.Short() {
		t.Skip("waits for a limit of 10 s")
	}
	h := newHost(t, memory.Script{})
	s := h.running()
	s.agent.Script([]string{"some"}, agenttest.Script{Stdout: strings.Repeat("x", 150<<10), Exit: 5})
	stdout := h.fifo("out")
	f, err := os.OpenFile(stdout, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s.exec(s.id, "e", streams{stdout: stdout}, "some")
	s.run(s.id, "e")
	if got := s.wait(s.id, "e"); got != 5 {
		t.Errorf("exit status %d", got)
	}
	s.finish(s.id)
}

func TestTerminalHasASizeAndNoStderr(t *testing.T) {
	h := newHost(t, memory.Script{})
	s := h.running()
	stdin, stdout := h.fifo("in"), h.fifo("out")
	out := h.read(stdout)
	s.exec(s.id, "e", streams{stdin: stdin, stdout: stdout, terminal: true}, "cat")
	resize := func(width, height uint32) {
		t.Helper()
		if _, err := s.ResizePty(h.ctx(), &taskapi.ResizePtyRequest{ID: s.id, ExecID: "e", Width: width, Height: height}); err != nil {
			t.Fatal(err)
		}
	}
	resize(80, 24) // before it runs: kept
	s.run(s.id, "e")
	resize(132, 50)
	s.kill(s.id, "e", uint32(unix.SIGKILL))
	s.wait(s.id, "e")
	out.all(t)
	var sizes []string
	for _, c := range s.agent.Calls() {
		if r, ok := c.Request.(*agentpb.TtyWinResizeRequest); ok {
			sizes = append(sizes, fmt.Sprint(r.Column, "x", r.Row))
		}
		if c.RPC == "ReadStderr" || c.RPC == "CloseStdin" && c.Request.(*agentpb.CloseStdinRequest).ExecId != s.id {
			t.Errorf("%s of a terminal", c.RPC)
		}
	}
	if got := strings.Join(sizes, " "); got != "80 x 24 132 x 50" && got != "80x24 132x50" {
		t.Errorf("sizes %q", got)
	}
	s.finish(s.id)
}

func TestHundredExecsAtOnce(t *testing.T) {
	h := newHost(t, memory.Script{})
	s := h.running()
	before := s.fds()
	outs := map[string]*reader{}
	for i := range 100 {
		exec := fmt.Sprint("e", i)
		stdout := h.fifo(exec)
		outs[exec] = h.read(stdout)
		s.exec(s.id, exec, streams{stdout: stdout}, "echo", exec)
	}
	errs := make(chan error, len(outs))
	for exec := range outs {
		go func() {
			_, err := s.Start(h.ctx(), &taskapi.StartRequest{ID: s.id, ExecID: exec})
			errs <- err
		}()
	}
	for range outs {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	for exec, out := range outs {
		s.wait(s.id, exec)
		if got := out.all(t); got != exec+"\n" {
			t.Errorf("output of %s is %q", exec, got)
		}
		s.remove(s.id, exec)
	}
	h.eventually("descriptors as before", func() bool { return s.fds() <= before })
	s.finish(s.id)
}

// fds counts the shim's open descriptors.
func (s *shim) fds() int {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.pid))
	if err != nil {
		s.h.t.Fatal(err)
	}
	return len(entries)
}

func TestOutputToAFile(t *testing.T) {
	h := newHost(t, memory.Script{})
	s := h.running()
	s.agent.Script([]string{"both"}, agenttest.Script{Stdout: "out\n", Stderr: "err\n"})
	path := filepath.Join(h.dir, "logs", "e.log")
	s.exec(s.id, "e", streams{stdout: "file://" + path, stderr: "file://" + path}, "both")
	s.run(s.id, "e")
	s.wait(s.id, "e")
	text, err := os.ReadFile(path)
	if err != nil || len(text) != 8 || !strings.Contains(string(text), "out\n") {
		t.Errorf("file has %q, %v", text, err)
	}
	s.finish(s.id)
}

func TestOutputToALogger(t *testing.T) {
	h := newHost(t, memory.Script{})
	s := h.running()
	path := filepath.Join(h.dir, "logged")
	logger := h.write("logger", fmt.Sprintf("#!/bin/sh\nexec 5>&-\n{ cat <&3; cat <&4; echo $1=$2 $CONTAINER_ID $CONTAINER_NAMESPACE; } > %s\n", path))
	if err := os.Chmod(logger, 0o755); err != nil {
		t.Fatal(err)
	}
	address := "binary://" + logger + "?key=value"
	s.exec(s.id, "e", streams{stdout: address, stderr: address}, "echo", "hello")
	s.run(s.id, "e")
	s.wait(s.id, "e")
	text, err := os.ReadFile(path)
	if want := "hello\nkey=value " + s.id + " " + namespace + "\n"; err != nil || string(text) != want {
		t.Errorf("logged %q, want %q, %v", text, want, err)
	}
	s.finish(s.id)
}

func TestUnknownSchemeIsRefused(t *testing.T) {
	h := newHost(t, memory.Script{})
	s := h.running()
	if err := s.tryExec(s.id, "e", streams{stdout: "http://somewhere/"}, "true"); !isInvalidArgument(err) {
		t.Errorf("exec: %v", err)
	}
	s.finish(s.id)
}
