package main

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

// What was copied for a container that could not be made goes with its removal,
// by which a host takes everything back.
func TestRemovalOfAContainerThatWasNeverMade(t *testing.T) {
	a := startSandbox(t)
	const shared = "/run/kata-containers/shared/containers/"
	for _, name := range []string{"box-0123456789abcdef-hosts", "other-0123456789abcdef-hosts"} {
		_, err := a.CopyFile(a.ctx(), &agentpb.CopyFileRequest{Path: shared + name, FileMode: unix.S_IFREG | 0o644, FileSize: 1, Data: []byte("x")})
		if err != nil {
			t.Fatal(err)
		}
	}
	spec := a.spec("true")
	spec.Root.Path = "/no/such/root"
	if err := a.create("box", spec); err == nil {
		t.Fatal("a container without a root was made")
	}
	_, err := a.RemoveContainer(a.ctx(), &agentpb.RemoveContainerRequest{ContainerId: "box"})
	wantStatus(t, err, codes.InvalidArgument, "nvalid container id")
	if _, err := a.inside(shared + "box-0123456789abcdef-hosts"); err == nil {
		t.Error("its file is still there")
	}
	if _, err := a.inside(shared + "other-0123456789abcdef-hosts"); err != nil {
		t.Errorf("another's file is gone: %v", err)
	}
}

// A host whose patience has ended removes a container that is still being made:
// the removal comes after the making.
func TestRemovalWhileAContainerIsMade(t *testing.T) {
	a := startSandbox(t)
	spec := a.spec("sleep", "1000")
	spec.Hooks = &agentpb.Hooks{CreateRuntime: []*agentpb.Hook{{Path: busybox, Args: []string{"busybox", "sleep", "0.3"}}}}
	made := make(chan error, 1)
	go func() { made <- a.create("box", spec) }()
	for deadline := time.Now().Add(callTimeout); ; time.Sleep(time.Millisecond) {
		if _, err := a.inside("/run/kata-containers/box/config.json"); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the container is not being made")
		}
	}
	a.remove("box")
	if err := <-made; err != nil {
		t.Errorf("the container was not made: %v", err)
	}
	if _, err := a.inside("/run/kata-containers/box/config.json"); err == nil {
		t.Error("the container is still there")
	}
	a.run("box", "sleep", "1000")
	a.remove("box")
}
