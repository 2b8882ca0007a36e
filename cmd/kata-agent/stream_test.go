package main

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

func TestTerminal(t *testing.T) {
	a := startSandbox(t)
	spec := a.spec("sh")
	spec.Process.Terminal = true
	if err := a.create("tty", spec); err != nil {
		t.Fatal(err)
	}
	a.start("tty")
	resize := &agentpb.TtyWinResizeRequest{ContainerId: "tty", Row: 43, Column: 132}
	if _, err := a.TtyWinResize(a.ctx(), resize); err != nil {
		t.Fatal(err)
	}
	a.write("tty", "", "stty size; exit 3\n")
	if got := a.readAll(a.ReadStdout, "tty", ""); !strings.Contains(got, "43 132\r\n") {
		t.Errorf("the terminal shows %q", got)
	}
	if got := a.wait("tty", ""); got != 3 {
		t.Errorf("status is %d, want 3", got)
	}
	a.remove("tty")
	a.run("pipe", "sleep", "1000")
	resize.ContainerId = "pipe"
	_, err := a.TtyWinResize(a.ctx(), resize)
	wantStatus(t, err, codes.Unavailable, "no tty")
	a.remove("pipe")
}

func (a *agent) write(id, exec, text string) {
	a.t.Helper()
	if _, err := a.WriteStdin(a.ctx(), &agentpb.WriteStreamRequest{ContainerId: id, ExecId: exec, Data: []byte(text)}); err != nil {
		a.t.Fatal(err)
	}
}

func TestOutputIsWholeBeforeItsEnd(t *testing.T) {
	a := startSandbox(t)
	a.run("box", "sleep", "1000")
	for range 5 {
		a.exec("box", "e", "sh", "-c", "yes 0123456789abcde | head -c 1000000")
		if got := a.readAll(a.ReadStdout, "box", "e"); len(got) != 1000000 {
			t.Errorf("got %d bytes, want 1000000", len(got))
		}
		a.wait("box", "e")
	}
	// What fits in the pipe waits for its reader though the process has ended.
	a.exec("box", "e", "sh", "-c", "echo left behind")
	time.Sleep(50 * time.Millisecond)
	if got := a.readAll(a.ReadStdout, "box", "e"); got != "left behind\n" {
		t.Errorf("got %q", got)
	}
	a.wait("box", "e")
	// A descendant that holds the stream does not keep it open for ever.
	a.exec("box", "e", "sh", "-c", "sleep 1000 & echo parent")
	if got := a.readAll(a.ReadStdout, "box", "e"); got != "parent\n" {
		t.Errorf("got %q", got)
	}
	if got := a.wait("box", "e"); got != 0 {
		t.Errorf("status is %d", got)
	}
	a.remove("box")
}

func TestInputEnds(t *testing.T) {
	a := startSandbox(t)
	a.run("box", "cat")
	a.write("box", "", "kept")
	if _, err := a.WriteStdin(a.ctx(), &agentpb.WriteStreamRequest{ContainerId: "box"}); err != nil { // empty closes
		t.Fatal(err)
	}
	if got := a.readAll(a.ReadStdout, "box", ""); got != "kept" {
		t.Errorf("got %q", got)
	}
	_, err := a.WriteStdin(a.ctx(), &agentpb.WriteStreamRequest{ContainerId: "box", Data: []byte("x")})
	wantStatus(t, err, codes.Internal, "Cannot get writer")
	a.remove("box")
}

func TestEveryWaiterGetsTheStatus(t *testing.T) {
	a := startSandbox(t)
	a.run("box", "sleep", "1000")
	statuses := make(chan int32, 5)
	for range cap(statuses) {
		go func() {
			resp, _ := a.WaitProcess(a.ctx(), &agentpb.WaitProcessRequest{ContainerId: "box"})
			statuses <- resp.GetStatus()
		}()
	}
	time.Sleep(20 * time.Millisecond)
	a.signal("box", "box", unix.SIGKILL)
	for range cap(statuses) {
		if got := <-statuses; got != 137 {
			t.Errorf("a waiter got %d", got)
		}
	}
	a.remove("box")
}

func TestPauseAndResume(t *testing.T) {
	a := startSandbox(t)
	a.run("box", "sh", "-c", "while :; do echo tick; sleep 0.01; done")
	a.readUntil("box", "", "tick")
	request := &agentpb.PauseContainerRequest{ContainerId: "box"}
	if _, err := a.PauseContainer(a.ctx(), request); err != nil {
		t.Fatal(err)
	}
	_, err := a.PauseContainer(a.ctx(), request)
	wantStatus(t, err, codes.FailedPrecondition, "container status is: paused")
	if _, err := a.ResumeContainer(a.ctx(), &agentpb.ResumeContainerRequest{ContainerId: "box"}); err != nil {
		t.Fatal(err)
	}
	_, err = a.ResumeContainer(a.ctx(), &agentpb.ResumeContainerRequest{ContainerId: "box"})
	wantStatus(t, err, codes.FailedPrecondition, "container status is: running, not paused")
	_, err = a.StartContainer(a.ctx(), &agentpb.StartContainerRequest{ContainerId: "box"})
	wantStatus(t, err, codes.FailedPrecondition, "container status is: running, not created")
	if _, err := a.PauseContainer(a.ctx(), request); err != nil {
		t.Fatal(err)
	}
	a.remove("box") // also from paused

	// One that was paused before its start can be started after.
	if err := a.create("box", a.spec("sleep", "1000")); err != nil {
		t.Fatal(err)
	}
	if _, err := a.PauseContainer(a.ctx(), request); err != nil {
		t.Fatal(err)
	}
	_, err = a.StartContainer(a.ctx(), &agentpb.StartContainerRequest{ContainerId: "box"})
	wantStatus(t, err, codes.FailedPrecondition, "container status is: paused, not created")
	if _, err := a.ResumeContainer(a.ctx(), &agentpb.ResumeContainerRequest{ContainerId: "box"}); err != nil {
		t.Fatal(err)
	}
	a.start("box")
	a.remove("box")
}

func TestSignals(t *testing.T) {
	a := startSandbox(t)
	a.run("box", "sh", "-c", "trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.05; done")
	a.readUntil("box", "", "ready")
	a.signal("box", "box", unix.SIGTERM)
	a.readUntil("box", "", "caught")
	if got := a.wait("box", ""); got != 5 {
		t.Errorf("status is %d, want 5: init handles SIGTERM itself", got)
	}
	a.signal("box", "box", unix.SIGTERM) // to a process that has ended
	a.remove("box")

	a.run("box", "sleep", "1000")
	a.exec("box", "e", "sleep", "1000")
	a.signal("box", "", unix.SIGKILL)
	for _, exec := range []string{"e", "box"} {
		if got := a.wait("box", exec); got != 137 {
			t.Errorf("status of %s is %d", exec, got)
		}
	}
	a.remove("box")
}
