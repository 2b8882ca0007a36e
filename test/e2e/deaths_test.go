package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/sandbox"
	"github.com/kata-cc/kata-cc/test/cluster"
)

// vmmOf is the process of a pod's machine, by what its shim has on disk.
func vmmOf(t *testing.T, _ *cluster.Cluster, pod string) int {
	t.Helper()
	record, err := sandbox.ReadRecord(sandbox.DefaultStateDir, pod)
	check(t, err)
	return record.VMM.PID
}

// shimOf is the process of a pod's shim.
func shimOf(t *testing.T, c *cluster.Cluster, pod string) int {
	t.Helper()
	pid := shims(t, c)[pod]
	if pid == 0 {
		t.Fatalf("no shim of %s", pod)
	}
	return pid
}

// shims are the servers that the cluster's containerd has started, by their pods.
func shims(t *testing.T, c *cluster.Cluster) map[string]int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	check(t, err)
	found := map[string]int{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil { // it has ended
			continue
		}
		args := strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
		if filepath.Base(args[0]) != "containerd-shim-kata-cc-v2" || !strings.Contains(string(text), c.Dir+"/containerd.sock") {
			continue
		}
		if i := slices.Index(args, "-id"); i > 0 && i+1 < len(args) && !slices.Contains(args, "start") && !slices.Contains(args, "delete") {
			found[args[i+1]], err = strconv.Atoi(filepath.Base(filepath.Dir(file)))
			check(t, err)
		}
	}
	return found
}

// Somebody dies under a pod with two containers and an exec: every container is
// told to have ended, the pod is not ready, and it is removed without a rest.
// start checks that nothing is left.
func TestDeathsUnderAPod(t *testing.T) {
	for name, tt := range map[string]struct {
		victim func(t *testing.T, c *cluster.Cluster, pod string) int
		states []string
	}{
		// 137 is what delete says, 255 what containerd says if it did not wait for that.
		"shim": {shimOf, []string{"CONTAINER_EXITED 137", "CONTAINER_EXITED 255"}},
		"VMM":  {vmmOf, []string{"CONTAINER_EXITED 255"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := start(t)
			p := runPod(t, c, "death-of-"+strings.ToLower(name))
			ids := []string{p.run(cluster.Container{Name: "one"}), p.run(cluster.Container{Name: "two"})}
			created, err := c.CreateContainer(t.Context(), p.sandbox, p.spec, cluster.Container{Name: "created"})
			check(t, err)
			done := make(chan error, 1)
			go func() {
				_, err := c.Exec(context.WithoutCancel(t.Context()), ids[0], "/bin/busybox", "sleep", "100")
				done <- err
			}()
			eventually(t, "the exec runs", func() bool {
				out, err := c.Exec(t.Context(), ids[0], "/bin/busybox", "ps")
				return err == nil && strings.Contains(out, "sleep 100")
			})
			check(t, unix.Kill(tt.victim(t, c, p.sandbox), unix.SIGKILL))
			for _, id := range ids {
				eventually(t, fmt.Sprint(id, " is one of ", tt.states), func() bool {
					state, err := c.State(t.Context(), id)
					return err == nil && slices.Contains(tt.states, state)
				})
			}
			if err := <-done; err == nil {
				t.Error("the exec ended well")
			}
			if err := c.StartContainer(t.Context(), created); err == nil {
				t.Error("a container was started in what has died")
			}
			p.remove()
		})
	}
}

// A shim dies while it makes a container, and another one while its machine boots:
// the requests fail, and nothing of either is left.
func TestShimThatDiesAtWork(t *testing.T) {
	t.Run("booting", func(t *testing.T) {
		c := start(t)
		type answer struct {
			pod string
			err error
		}
		ran := make(chan answer, 1)
		go func() {
			pod, err := c.RunPod(context.WithoutCancel(t.Context()), cluster.Pod{Name: "dies-booting"})
			ran <- answer{pod, err}
		}()
		eventually(t, "a shim with a machine dies", func() bool {
			for pod, pid := range shims(t, c) {
				if r, err := sandbox.ReadRecord(sandbox.DefaultStateDir, pod); err == nil && r.VMM.PID != 0 {
					return unix.Kill(pid, unix.SIGKILL) == nil
				}
			}
			return false
		})
		if a := <-ran; a.err == nil {
			t.Error("the pod runs")
			check(t, c.RemovePod(t.Context(), a.pod))
		}
	})
	t.Run("creating", func(t *testing.T) {
		c := start(t)
		p := runPod(t, c, "dies-creating")
		pid, died := shimOf(t, c, p.sandbox), make(chan error, 1)
		go func() { died <- unix.Kill(pid, unix.SIGKILL) }()
		if _, err := c.CreateContainer(t.Context(), p.sandbox, p.spec, cluster.Container{Name: "main"}); err == nil {
			t.Log("the container was created before the shim died")
		}
		check(t, <-died)
		p.remove()
	})
}
