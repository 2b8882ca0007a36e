package main

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

func TestContainerFromCreateToRemove(t *testing.T) {
	a := startSandbox(t)
	a.run("first", "sh", "-c", "echo out; echo err >&2; hostname; exit 7")
	if got := a.readAll(a.ReadStdout, "first", ""); got != "out\nexample\n" {
		t.Errorf("stdout is %q", got)
	}
	if got := a.readAll(a.ReadStderr, "first", "first"); got != "err\n" {
		t.Errorf("stderr is %q", got)
	}
	if got := a.wait("first", "first"); got != 7 {
		t.Errorf("status is %d, want 7", got)
	}
	_, err := a.WaitProcess(a.ctx(), &agentpb.WaitProcessRequest{ContainerId: "first"})
	wantStatus(t, err, codes.NotFound, "Invalid exec id")
	a.remove("first")
	_, err = a.WaitProcess(a.ctx(), &agentpb.WaitProcessRequest{ContainerId: "first"})
	wantStatus(t, err, codes.InvalidArgument, "nvalid container id")
	a.run("first", "sh", "-c", "exit 0") // the id is free again
	a.remove("first")
}

func TestExecWithStdin(t *testing.T) {
	a := startSandbox(t)
	a.run("box", "sleep", "1000")
	a.exec("box", "e1", "cat")
	want := strings.Repeat("0123456789abcdef", 64<<10/16)
	for range 4 {
		if _, err := a.WriteStdin(a.ctx(), &agentpb.WriteStreamRequest{ContainerId: "box", ExecId: "e1", Data: []byte(want[:16<<10])}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.CloseStdin(a.ctx(), &agentpb.CloseStdinRequest{ContainerId: "box", ExecId: "e1"}); err != nil {
		t.Fatal(err)
	}
	if got := a.readAll(a.ReadStdout, "box", "e1"); got != want {
		t.Errorf("cat gave back %d bytes, want %d", len(got), len(want))
	}
	if got := a.wait("box", "e1"); got != 0 {
		t.Errorf("status is %d", got)
	}
	a.exec("box", "e2", "sleep", "1000")
	_, err := a.ExecProcess(a.ctx(), &agentpb.ExecProcessRequest{ContainerId: "box", ExecId: "e2", Process: &agentpb.Process{Args: []string{"id"}}})
	wantStatus(t, err, codes.AlreadyExists, "already exists")
	a.signal("box", "e2", unix.SIGKILL)
	if got := a.wait("box", "e2"); got != 137 {
		t.Errorf("status of a killed process is %d, want 137", got)
	}
	a.signal("box", "", unix.SIGTERM) // sleep as pid 1 does not handle it
	if got := a.wait("box", "box"); got != 137 {
		t.Errorf("status of init is %d, want 137", got)
	}
	a.remove("box")
}

func TestProgramNotFound(t *testing.T) {
	a := startSandbox(t)
	err := a.create("none", a.spec("/no/such/program"))
	wantStatus(t, err, codes.Internal, "the file /no/such/program was not found")
	a.run("box", "sleep", "1000")
	_, err = a.ExecProcess(a.ctx(), &agentpb.ExecProcessRequest{ContainerId: "box", ExecId: "x", Process: &agentpb.Process{Args: []string{"nothing"}, Env: []string{"PATH=/bin"}}})
	wantStatus(t, err, codes.Internal, "the file nothing was not found")
	a.remove("box")
}
