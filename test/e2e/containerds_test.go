package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kata-cc/kata-cc/test/cluster"
)

// The example pod, and a container by ctr, on every containerd that is there;
// the other tests run on the default one.
func TestContainerdVersions(t *testing.T) {
	paths, err := cluster.FindPaths()
	if err != nil {
		t.Fatal(err)
	}
	vmm := paths.ChooseVMM(os.Getenv("VMM"))
	if missing := paths.Missing(vmm); len(missing) > 0 {
		t.Skip(missingError(strings.Join(missing, ", ")))
	}
	for _, version := range cluster.Containerds[:len(cluster.Containerds)-1] {
		t.Run(version, func(t *testing.T) {
			if !paths.HasContainerd(version) {
				t.Skipf("needs containerd %s (make containerds)", version)
			}
			c, err := cluster.Start(t.Context(), cluster.Options{VMM: vmm, Containerd: version})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("logs:\n%s", c.Logs(60))
				}
				if err := closeNode(c); err != nil {
					t.Error(err)
				}
			})
			for _, image := range []string{cluster.PauseImage, cluster.ExampleImage} {
				if err := c.Pull(t.Context(), image); err != nil {
					t.Fatal(err)
				}
			}
			appliedBy(t, c, map[string]string{"1.6": "Commit", "1.7": "Apply", "2.2": "Apply"}[version])
			before, err := c.Census()
			if err != nil {
				t.Fatal(err)
			}
			t.Run("CRI", func(t *testing.T) { examplePod(t, c, cluster.Handler) })
			if cluster.HasSandboxers(version) {
				t.Run("sandbox API", func(t *testing.T) { examplePod(t, c, cluster.SandboxHandler) })
				t.Run("JSON", func(t *testing.T) { answeredInJSON(t, c) })
			}
			t.Run("ctr", func(t *testing.T) { exampleByCtr(t, c) })
			if left, err := c.AwaitGone(context.Background(), before); err != nil || len(left) > 0 {
				t.Errorf("left behind (%v):\n%s", err, left)
			}
		})
	}
}

// appliedBy fails unless it was this request to the snapshotter that made the
// layer files: Apply, or Commit of what was unpacked into a scratch directory.
func appliedBy(t *testing.T, c *cluster.Cluster, rpc string) {
	t.Helper()
	log, err := os.ReadFile(filepath.Join(c.Dir, "log", "tardev-snapshotter.log"))
	if err != nil {
		t.Fatal(err)
	}
	all, these := strings.Count(string(log), `"layer converted"`), strings.Count(string(log), " rpc="+rpc+" ")
	if these == 0 || these != all {
		t.Errorf("%d of %d layers were made by %s", these, all, rpc)
	}
}

// examplePod runs the example pod through restarts of containerd.
func examplePod(t *testing.T, c *cluster.Cluster, handler string) {
	p := startPod(t, c, cluster.Pod{Name: "example", Handler: handler})
	id := p.run(cluster.Container{Name: "main", Command: []string{"/bin/busybox", "sh", "-c"},
		Args: []string{"while [ ! -e /end ]; do busybox sleep 0.1; done; exit 9"}})
	if root := p.exec(id, "ls", "/"); !strings.Contains(root, "LAYER_1") || !strings.Contains(root, "LAYER_2") {
		t.Errorf("the container's root is %q", root)
	}
	p.exec(id, "sh", "-c", "(busybox sleep 1; echo > /end) >/dev/null 2>&1 &")
	restarted := func() {
		t.Helper()
		if err := c.RestartContainerd(t.Context(), func() {}); err != nil {
			t.Fatal(err)
		}
	}
	restarted()
	eventually(t, "the exit is delivered", func() bool {
		state, err := c.State(t.Context(), id)
		return err == nil && state == "CONTAINER_EXITED 9"
	})
	restarted()
	other := p.run(cluster.Container{Name: "other"})
	restarted()
	if out := p.exec(other, "echo", "still there"); out != "still there\n" {
		t.Errorf("%q", out)
	}
	p.remove()
}

// exampleByCtr runs a container of the image that CRI has pulled without CRI.
func exampleByCtr(t *testing.T, c *cluster.Cluster) { runByCtr(t, c, "io.containerd.kata-cc.v2") }

// answeredInJSON has the shim believe that its caller knows of a version above 2.
// No release of containerd says so, though all from 1.7 on read what comes then.
func answeredInJSON(t *testing.T, c *cluster.Cluster) {
	shim := filepath.Join(t.TempDir(), "containerd-shim-kata-cc-v2")
	answers := shim + ".answers"
	script := fmt.Sprintf("#!/bin/sh\nexport MAX_SHIM_VERSION=3\n%s \"$@\" | tee -a %s\n", filepath.Join(c.Paths.Bin, "containerd-shim-kata-cc-v2"), answers)
	check(t, os.WriteFile(shim, []byte(script), 0o755))
	runByCtr(t, c, shim)
	text, err := os.ReadFile(answers)
	check(t, err)
	if !strings.Contains(string(text), `{"version":2,"address":"unix://`) {
		t.Errorf("the shim answered %q", text)
	}
}

func runByCtr(t *testing.T, c *cluster.Cluster, runtime string) {
	t.Helper()
	id := c.Unique("ctr")
	out, err := c.Shell(t.Context(), "ctr --namespace k8s.io run --rm --runtime "+runtime+" --runtime-config-path "+
		c.KataConfig(cluster.Handler)+" --snapshotter tardev "+cluster.ExampleImage+" "+id+" /bin/busybox echo from ctr")
	if err != nil || !strings.Contains(out, "from ctr") {
		t.Errorf("ctr run: %q, %v", out, err)
	}
}
