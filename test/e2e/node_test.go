// Package e2e runs pods for real: containerd, its CRI, the snapshotter, the
// shim, a virtual machine with its own kernel and agent. It needs root, and
// QEMU or Cloud Hypervisor, but no KVM.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/cavaliergopher/cpio"

	"github.com/kata-cc/kata-cc/test/cluster"
)

// Handlers whose machines differ, most of them by not coming up.
const (
	noVMM       = "kata-cc-no-vmm"                   // the VMM is a program that ends at once
	noVMMEither = cluster.SandboxHandler + "-no-vmm" // the same by the sandbox API
	noKernel    = "kata-cc-no-kernel"                // the kernel is no kernel
	panics      = "kata-cc-panics"                   // the guest's kernel finds no init and panics
	silentAgent = "kata-cc-silent-agent"             // the guest boots and no agent listens
	onInitrd    = "kata-cc-initrd"                   // boots, from one initial ramdisk without a root disk
	production  = "kata-cc-production"               // boots, from the image without a debug console
	growing     = "kata-cc-growing"                  // boots, and follows its containers
	fewSeconds  = 12                                 // how long silentAgent's shim waits for it
)

// node is the cluster that all tests share; it starts with the first of them.
var node = sync.OnceValues(func() (*cluster.Cluster, error) {
	paths, err := cluster.FindPaths()
	if err != nil {
		return nil, err
	}
	vmm := paths.ChooseVMM(os.Getenv("VMM"))
	if missing := paths.Missing(vmm); len(missing) > 0 {
		return nil, missingError(strings.Join(missing, ", "))
	}
	dir, err := os.MkdirTemp("", "kata-cc-e2e-")
	if err != nil {
		return nil, err
	}
	brokenDir = dir
	empty, silent, text := filepath.Join(dir, "empty.img"), filepath.Join(dir, "silent.img"), filepath.Join(dir, "text")
	err = errors.Join(
		writeInitrd(empty, nil),
		writeInitrd(silent, []byte("#!/bin/busybox sh\necho this guest has no agent\nexec /bin/busybox sleep 100000\n")),
		os.WriteFile(text, []byte("this is not a kernel\n"), 0o600),
	)
	if err != nil {
		return nil, err
	}
	return cluster.Start(context.Background(), cluster.Options{VMM: vmm, Handlers: map[string]cluster.Kata{
		noVMM:       {"hypervisor.clh": {"path": "/bin/false"}},
		noVMMEither: {"hypervisor.clh": {"path": "/bin/false"}},
		noKernel:    {"hypervisor.clh": {"kernel": text}},
		panics:      {"hypervisor.clh": {"initrd": empty}},
		onInitrd:    {"hypervisor.clh": paths.Debug().OnRamdisk()},
		production:  {"hypervisor.clh": paths.Production().OnDisk()},
		growing: {
			"hypervisor.clh": {"default_maxvcpus": 4, "default_maxmemory": 1536},
			"runtime":        {"static_sandbox_resource_mgmt": false},
		},
		silentAgent: {"hypervisor.clh": {"initrd": silent}, "agent.kata": {"dial_timeout": fewSeconds}},
	}})
})

var brokenDir string

type missingError string

func (e missingError) Error() string { return "needs " + string(e) }

func TestMain(m *testing.M) {
	code := m.Run()
	if brokenDir != "" {
		if c, err := node(); err == nil {
			if err := closeNode(c); err != nil {
				fmt.Fprintln(os.Stderr, "FAIL: after all tests:", err)
				code = 1
			}
		}
		_ = os.RemoveAll(brokenDir)
	}
	os.Exit(code)
}

func closeNode(c *cluster.Cluster) error {
	ctx := context.Background()
	err := c.Close(ctx)
	left, censusErr := c.AwaitGone(ctx, nil)
	if len(left) > 0 {
		err = errors.Join(err, fmt.Errorf("left behind:\n%s", left))
	}
	return errors.Join(err, censusErr)
}

// start gives a test the node with its images, and fails the test if it leaves
// more on the host than it found.
func start(t *testing.T, images ...string) *cluster.Cluster {
	t.Helper()
	c, err := node()
	if missing, ok := errors.AsType[missingError](err); ok {
		t.Skip(missing)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, image := range append(images, cluster.PauseImage, cluster.ExampleImage) {
		if err := c.Pull(t.Context(), image); err != nil {
			t.Fatal(err)
		}
	}
	before, err := c.Census()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		left, err := c.AwaitGone(context.Background(), before)
		if err != nil || len(left) > 0 {
			t.Errorf("left behind (%v):\n%s", err, left)
		}
		if t.Failed() {
			t.Logf("logs:\n%s", c.Logs(40))
		}
	})
	return c
}

// pod is a running pod of a test.
type pod struct {
	*cluster.Cluster
	t       *testing.T
	spec    cluster.Pod
	sandbox string
}

// runPod starts a pod, which is removed when the test ends.
func runPod(t *testing.T, c *cluster.Cluster, name string) *pod {
	t.Helper()
	return startPod(t, c, cluster.Pod{Name: name})
}

// startPod is runPod for a pod with more than a name.
func startPod(t *testing.T, c *cluster.Cluster, spec cluster.Pod) *pod {
	t.Helper()
	p := &pod{Cluster: c, t: t, spec: spec}
	var err error
	if p.sandbox, err = c.RunPod(t.Context(), p.spec); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.sandbox == "" {
			return
		}
		if err := c.RemovePod(context.Background(), p.sandbox); err != nil {
			t.Error(err)
		}
	})
	return p
}

// remove removes the pod before the test ends.
func (p *pod) remove() {
	p.t.Helper()
	sandbox := p.sandbox
	p.sandbox = ""
	if err := p.RemovePod(p.t.Context(), sandbox); err != nil {
		p.t.Fatal(err)
	}
}

func (p *pod) run(k cluster.Container) string {
	p.t.Helper()
	id, err := p.RunContainer(p.t.Context(), p.sandbox, p.spec, k)
	if err != nil {
		p.t.Fatal(err)
	}
	return id
}

// exec runs busybox in a container, which must succeed.
func (p *pod) exec(id string, args ...string) string {
	p.t.Helper()
	out, err := p.Exec(p.t.Context(), id, append([]string{"/bin/busybox"}, args...)...)
	if err != nil {
		p.t.Fatal(err)
	}
	return out
}

// disks are the files of the machine's disks, but for the guest's own.
func (p *pod) disks() []string {
	p.t.Helper()
	out, err := p.VMInfo(p.t.Context(), p.sandbox, `.config.disks[] | select(.id != "_disk0") | .path`)
	if err != nil {
		p.t.Fatal(err)
	}
	return strings.Fields(strings.ReplaceAll(out, `"`, ""))
}

// writeInitrd writes an initial ramdisk whose init is the script, or one
// without an init.
func writeInitrd(file string, script []byte) error {
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return err
	}
	var buf bytes.Buffer
	w := cpio.NewWriter(&buf)
	entries := []cluster.File{{Name: "bin", Mode: int64(cpio.TypeDir | 0o755)}, {Name: "dev", Mode: int64(cpio.TypeDir | 0o755)},
		{Name: "bin/busybox", Mode: int64(cpio.TypeReg | 0o755), Content: busybox}}
	if script != nil {
		entries = append(entries, cluster.File{Name: "init", Mode: int64(cpio.TypeReg | 0o755), Content: script})
	}
	for _, e := range entries {
		if err := w.WriteHeader(&cpio.Header{Name: e.Name, Mode: cpio.FileMode(e.Mode), Size: int64(len(e.Content))}); err != nil {
			return err
		}
		if _, err := w.Write(e.Content); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(file, buf.Bytes(), 0o600)
}
