package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

// runSharing creates and starts a container that shares the sandbox's process ids.
func (a *agent) runSharing(id string, args ...string) {
	a.t.Helper()
	spec := a.spec(args...)
	spec.Linux.CgroupsPath += id
	_, err := a.CreateContainer(a.ctx(), &agentpb.CreateContainerRequest{ContainerId: id, ExecId: id, OCI: spec, SandboxPidns: true})
	if err != nil {
		a.t.Fatal(err)
	}
	a.start(id)
}

// output runs a command in a container.
func (a *agent) output(id, exec string, args ...string) string {
	a.t.Helper()
	a.exec(id, exec, args...)
	out := a.readAll(a.ReadStdout, id, exec)
	if errors := a.readAll(a.ReadStderr, id, exec); a.wait(id, exec) != 0 {
		a.t.Fatalf("%q in %s: %s%s", args, id, out, errors)
	}
	return out
}

// children finds the children of the agent that have a name.
func (a *agent) children(name string) (found []int) {
	a.t.Helper()
	lists, err := filepath.Glob("/proc/" + a.pid() + "/task/*/children")
	if err != nil {
		a.t.Fatal(err)
	}
	for _, list := range lists {
		pids, _ := os.ReadFile(list) // the thread may have ended
		for _, pid := range strings.Fields(string(pids)) {
			comm, _ := os.ReadFile("/proc/" + pid + "/comm")
			var id int
			if _, err := fmt.Sscan(pid, &id); err == nil && strings.TrimSpace(string(comm)) == name {
				found = append(found, id)
			}
		}
	}
	return found
}

// holder is the process that holds the shared pid namespace, once it is what it
// is to be.
func (a *agent) holder() int {
	a.t.Helper()
	for deadline := time.Now().Add(callTimeout); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if pids := a.children("pause"); len(pids) > 0 {
			return pids[0]
		}
	}
	a.t.Fatal("no process holds the shared pid namespace")
	return 0
}

const processOne = "/proc/1/cmdline"

// A pause container is process 1 of the others.
func TestSharedPidNamespace(t *testing.T) {
	a := startSandbox(t)
	a.run("pause", "sleep", "1000")
	a.runSharing("box", "cat", processOne)
	if got := a.readAll(a.ReadStdout, "box", ""); got != "sleep\x001000\x00" {
		t.Errorf("process 1 of the container is %q, want the first container's", got)
	}
	a.wait("box", "")
	if pids := a.children("pause"); len(pids) > 0 {
		t.Errorf("processes %v hold the namespace beside the pause container", pids)
	}
	a.remove("box")
	a.remove("pause")
}

// Without one a process of the agent's own is: a container that ends, the first
// among them, takes nothing with it.
func TestSharedPidNamespaceWithoutPause(t *testing.T) {
	a := startSandbox(t)
	a.runSharing("first", "sleep", "1000")
	a.runSharing("second", "sleep", "2000")
	if got := a.output("second", "one", "cat", processOne); got != "/pause\x00" {
		t.Errorf("process 1 is %q", got)
	}
	// Nobody in the namespace can end it.
	a.exec("second", "kill", "sh", "-c", "kill -9 1; kill -TERM 1")
	a.wait("second", "kill")
	a.signal("first", "", unix.SIGKILL)
	if status := a.wait("first", ""); status != 137 {
		t.Errorf("the first container ended with %d", status)
	}
	a.remove("first")
	a.runSharing("third", "sleep", "3000")
	if got := a.output("third", "all", "sh", "-c", "cat /proc/[0-9]*/cmdline"); !strings.Contains(got, "sleep\x002000") || strings.Contains(got, "sleep\x001000") {
		t.Errorf("the third container sees %q, want the second's process", got)
	}
	// An orphan becomes a child of process 1, which leaves no dead ones behind.
	a.output("third", "orphan", "sh", "-c", `pid=$(sh -c 'sleep 0 >&2 & echo $!'); while [ -e /proc/$pid ]; do sleep 0.01; done`)

	if _, err := a.DestroySandbox(a.ctx(), &agentpb.DestroySandboxRequest{}); err != nil {
		t.Fatal(err)
	}
}

// ignoresChildren is a status with SIGCHLD, the 17th, among the ignored signals,
// which may be more: those that the test was started with.
var ignoresChildren = regexp.MustCompile(`SigIgn:\t[0-9a-f]{11}[13579bdf][0-9a-f]{4}\n`)

// What holds the namespace can do nothing, and has nothing.
func TestSharedPidNamespaceHolderIsConfined(t *testing.T) {
	a := startAgent(t)
	if _, err := a.CreateSandbox(a.ctx(), &agentpb.CreateSandboxRequest{SandboxId: "sandbox", SandboxPidns: true}); err != nil {
		t.Fatal(err)
	}
	pid := a.holder()
	var status string
	for deadline := time.Now().Add(callTimeout); !ignoresChildren.MatchString(status); time.Sleep(5 * time.Millisecond) {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("the holder does not ignore the end of its children (%v):\n%s", err, status)
		}
		status = string(data)
	}
	for _, want := range []string{
		"Uid:\t65534\t65534\t65534\t65534", "CapPrm:\t0000000000000000", "CapBnd:\t0000000000000000",
		"CapAmb:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "Threads:\t1",
	} {
		if !strings.Contains(status, want) {
			t.Errorf("the holder's status has no %q:\n%s", want, status)
		}
	}
	if files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid)); err != nil || len(files) != 0 {
		t.Errorf("the holder's files are %v (%v), want none", files, err)
	}
}

// Containers that come at once share one.
func TestSharedPidNamespaceOfContainersAtOnce(t *testing.T) {
	a := startSandbox(t)
	ids := []string{"c0", "c1", "c2", "c3"}
	var group errgroup.Group
	for _, id := range ids {
		spec := a.spec("sleep", "1000")
		spec.Linux.CgroupsPath += id
		group.Go(func() error {
			_, err := a.CreateContainer(a.ctx(), &agentpb.CreateContainerRequest{ContainerId: id, ExecId: id, OCI: spec, SandboxPidns: true})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	a.holder()
	if pids := a.children("pause"); len(pids) != 1 {
		t.Errorf("processes %v hold the namespace, want one", pids)
	}
	namespaces := map[string]bool{}
	for _, id := range ids {
		a.start(id)
		namespaces[a.output(id, "ns", "busybox", "readlink", "/proc/self/ns/pid")] = true
	}
	if len(namespaces) != 1 {
		t.Errorf("the containers are in %v, want one namespace", namespaces)
	}
}

// Its death ends the containers, and those that come later share a new one.
func TestSharedPidNamespaceHolderDies(t *testing.T) {
	a := startSandbox(t)
	a.runSharing("first", "sleep", "1000")
	if err := unix.Kill(a.holder(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if status := a.wait("first", ""); status != 137 {
		t.Errorf("the container ended with %d", status)
	}
	a.runSharing("second", "sleep", "2000")
	if got := a.output("second", "one", "cat", processOne); got != "/pause\x00" {
		t.Errorf("process 1 is %q", got)
	}
	a.remove("first")
	a.output("second", "still", "true")
	a.remove("second")
}

// Where the kernel does not end a container's processes with its init, the agent
// does: else one that goes on writing would keep the exit back for ever.
func TestSharedPidNamespaceInitTakesItsOwnAlong(t *testing.T) {
	a := startSandbox(t)
	a.runSharing("other", "sleep", "1000")
	a.runSharing("box", "sh", "-c", "{ for i in 1 2 3 4 5 6 7 8 9; do for j in 1 2 3 4 5 6 7 8 9; do echo on; sleep 0.1; done; done; echo to the end; } & exit 3")
	if out := a.readAll(a.ReadStdout, "box", ""); strings.Contains(out, "to the end") {
		t.Errorf("the output ended when a process that init left behind did: %q", out)
	}
	if status := a.wait("box", ""); status != 3 {
		t.Errorf("the container ended with %d", status)
	}
	if got := a.output("other", "all", "sh", "-c", "cat /proc/[0-9]*/cmdline"); strings.Contains(got, "echo on") {
		t.Errorf("a process of the container runs on: %q", got)
	}
	a.output("other", "still", "true")
	// An init that is not process 1 heeds SIGTERM without doing anything for it.
	a.signal("other", "", unix.SIGTERM)
	if status := a.wait("other", ""); status != 143 {
		t.Errorf("the container ended with %d after SIGTERM", status)
	}
}
