package e2e

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/sandbox"
	"github.com/kata-cc/kata-cc/test/cluster"
)

// containerd makes the pod by the sandbox API: there is no pause container, and
// the containers come into the machine that is there.
func TestSandboxAPI(t *testing.T) {
	c := start(t)
	p := startPod(t, c, cluster.Pod{Name: "sandboxed", Handler: cluster.SandboxHandler})
	first := p.run(cluster.Container{Name: "first"})
	second := p.run(cluster.Container{Name: "second"})
	if n := len(p.disks()); n != 2 {
		t.Errorf("the machine has %d disks, want the two layers of the image: %v", n, p.disks())
	}
	if out := p.exec(first, "hostname"); strings.TrimSpace(out) != "sandboxed" {
		t.Errorf("the host's name is %q", out)
	}
	p.exec(first, "sh", "-c", "echo from first > /dev/shm/shared")
	if out := p.exec(second, "cat", "/dev/shm/shared"); out != "from first\n" {
		t.Errorf("the containers do not share memory: %q", out)
	}
	for _, file := range []string{"/etc/hosts", "/etc/resolv.conf", "/etc/hostname"} {
		p.exec(second, "cat", file)
	}
	if out := p.exec(first, "ping", "-c", "1", c.Gateway()); !strings.Contains(out, "1 packets received") {
		t.Errorf("no network: %s", out)
	}
	if err := c.RestartContainerd(t.Context(), func() {}); err != nil {
		t.Fatal(err)
	}
	if out := p.exec(second, "cat", "/dev/shm/shared"); out != "from first\n" {
		t.Errorf("after a restart of containerd: %q", out)
	}
	p.sharesPIDs(first, second)
	p.remove()
}

// sharesPIDs ends the first container of a pod that shares its process ids and
// has no pause container: the second runs on, and a third joins it.
func (p *pod) sharesPIDs(first, second string) {
	p.t.Helper()
	_, err := p.Run(p.t.Context(), "crictl", "rm", "-f", first)
	check(p.t, err)
	third := p.run(cluster.Container{Name: "third", Command: []string{"/bin/busybox", "tail", "-f", "/proc/version"}})
	if out := p.exec(second, "sh", "-c", "busybox cat /proc/[0-9]*/cmdline"); !strings.Contains(out, "tail\x00-f\x00/proc/version") {
		p.t.Errorf("the second container sees %q, want the third's process too", out)
	}
	// The kernel kills process 1 last, and all others with it.
	if out := p.exec(third, "sh", "-c", "busybox cat /proc/1/cmdline /proc/1/oom_score_adj"); out != "/pause\x00-998\n" {
		p.t.Errorf("process 1 is %q", out)
	}
}

// The machine of such a pod is killed: its containers end, and it can be removed.
func TestSandboxAPIMachineDies(t *testing.T) {
	c := start(t)
	p := startPod(t, c, cluster.Pod{Name: "sandboxed-dies", Handler: cluster.SandboxHandler})
	id := p.run(cluster.Container{Name: "main"})
	record, err := sandbox.ReadRecord(sandbox.DefaultStateDir, p.sandbox)
	check(t, err)
	check(t, unix.Kill(record.VMM.PID, unix.SIGKILL))
	eventually(t, "the container has ended", func() bool {
		state, err := c.State(t.Context(), id)
		return err == nil && state == "CONTAINER_EXITED 255"
	})
	eventually(t, "the pod is not ready", func() bool {
		out, err := c.Run(t.Context(), "crictl", "inspectp", p.sandbox)
		return err == nil && strings.Contains(out, "SANDBOX_NOTREADY")
	})
	p.remove()
}

// containerd is restarted in the middle of every phase of a container.
func TestContainerdRestart(t *testing.T) {
	for _, handler := range []string{cluster.Handler, cluster.SandboxHandler} {
		t.Run(handler, func(t *testing.T) {
			c := start(t)
			p := startPod(t, c, cluster.Pod{Name: "restart-" + handler, Handler: handler})
			restart := func(meanwhile func()) {
				t.Helper()
				if err := c.RestartContainerd(t.Context(), meanwhile); err != nil {
					t.Fatal(err)
				}
			}
			state := func(id, want string) {
				t.Helper()
				eventually(t, id+" is "+want, func() bool {
					got, err := c.State(t.Context(), id)
					return err == nil && got == want
				})
			}

			id, err := c.CreateContainer(t.Context(), p.sandbox, p.spec, cluster.Container{
				Name: "main", Command: []string{"/bin/busybox", "sh", "-c"}, Args: []string{"while [ ! -e /end ]; do busybox sleep 0.1; done; exit 9"},
			})
			if err != nil {
				t.Fatal(err)
			}
			restart(func() {}) // created
			if err := c.StartContainer(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			restart(func() {}) // running
			state(id, "CONTAINER_RUNNING 0")
			p.exec(id, "sh", "-c", "(busybox sleep 3; echo > /end) >/dev/null 2>&1 &")
			restart(func() {}) // its end comes meanwhile, or soon after
			state(id, "CONTAINER_EXITED 9")
			restart(func() {}) // stopped
			state(id, "CONTAINER_EXITED 9")
			p.remove()
		})
	}
}
