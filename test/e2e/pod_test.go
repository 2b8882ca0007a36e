package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kata-cc/kata-cc/test/cluster"
)

// The example pod of the documentation, from what its guest shows to its exit.
func TestExamplePod(t *testing.T) {
	c := start(t)
	p := runPod(t, c, "example")
	id := p.run(cluster.Container{Name: "example", CPUs: 0.2, MemoryMiB: 50})

	if n := len(p.disks()); n != 3 {
		t.Errorf("the machine has %d disks, want pause and two layers: %v", n, p.disks())
	}
	files := strings.Fields(p.exec(id, "ls", "/"))
	for _, name := range []string{"LAYER_1", "LAYER_2", "bin"} {
		if !slices.Contains(files, name) {
			t.Errorf("no %s in the container's root %v", name, files)
		}
	}
	table, err := c.Guest(t.Context(), p.sandbox, "dmsetup table")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(table, cluster.ExampleLayer2RootHash) {
		t.Errorf("no device-mapper device has the root hash %s:\n%s", cluster.ExampleLayer2RootHash, table)
	}
	root, err := c.VMInfo(t.Context(), p.sandbox, `.config.disks[] | select(.id == "_disk0") | .path, .readonly`)
	if want := fmt.Sprintf("%q\ntrue\n", c.Paths.Debug().RootDisk()); err != nil || root != want {
		t.Errorf("the disk _disk0 is %s, %v, want %s", root, err, want)
	}
	if state, err := c.State(t.Context(), id); err != nil || !strings.HasPrefix(state, "CONTAINER_RUNNING") {
		t.Errorf("state %s, %v", state, err)
	}
}

// The whole guest may be one initial ramdisk, without a root disk.
func TestGuestOnInitrd(t *testing.T) {
	c := start(t)
	p := startPod(t, c, cluster.Pod{Name: "initrd", Handler: onInitrd})
	id := p.run(cluster.Container{Name: "main"})
	if out := p.exec(id, "ls", "/"); !strings.Contains(out, "LAYER_2") {
		t.Errorf("the container's root: %s", out)
	}
	if out, err := c.VMInfo(t.Context(), p.sandbox, ".config.disks | length"); err != nil || out != "3\n" {
		t.Errorf("%s disks, %v, want pause and two layers", out, err)
	}
}

// The production image runs pods, and gives nobody a shell though its node's
// configuration asks for the debug console.
func TestProductionGuest(t *testing.T) {
	c := start(t)
	p := startPod(t, c, cluster.Pod{Name: "production", Handler: production})
	id := p.run(cluster.Container{Name: "main"})
	if out := p.exec(id, "ls", "/"); !strings.Contains(out, "LAYER_2") {
		t.Errorf("the container's root: %s", out)
	}
	if out, err := c.Guest(t.Context(), p.sandbox, "echo shell"); err == nil || strings.Contains(out, "shell") {
		t.Errorf("a shell in the production guest: %q, %v", out, err)
	}
}

func TestContainerRootIsWritable(t *testing.T) {
	c := start(t)
	p := runPod(t, c, "writable")
	id := p.run(cluster.Container{Name: "main"})
	if out := p.exec(id, "sh", "-c", "echo new > /bin/new && busybox rm /LAYER_2 && busybox cat /bin/new"); out != "new\n" {
		t.Errorf("a file written in the container reads %q", out)
	}
	other := p.run(cluster.Container{Name: "other"})
	if out := p.exec(other, "ls", "/"); !strings.Contains(out, "LAYER_2") {
		t.Errorf("what one container removed is gone from another: %s", out)
	}
}

func TestExitStatusAndLog(t *testing.T) {
	c := start(t)
	p := runPod(t, c, "exit")
	id := p.run(cluster.Container{Name: "main", Command: []string{"/bin/busybox", "sh", "-c"},
		Args: []string{"echo to stdout; echo to stderr >&2; echo $GREETING; exit 7"}, Env: map[string]string{"GREETING": "hello"}})
	eventually(t, "the container ends with status 7", func() bool {
		state, err := c.State(t.Context(), id)
		return err == nil && state == "CONTAINER_EXITED 7"
	})
	out, err := c.Shell(t.Context(), "crictl logs "+id+" 2>&1")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"to stdout", "to stderr", "hello"} {
		if !strings.Contains(out, want) {
			t.Errorf("the log has no %q: %s", want, out)
		}
	}
}

func TestExec(t *testing.T) {
	c := start(t)
	p := runPod(t, c, "exec")
	id := p.run(cluster.Container{Name: "main"})

	_, err := c.Exec(t.Context(), id, "/bin/busybox", "sh", "-c", "exit 9")
	if err == nil || !strings.Contains(err.Error(), "exit code 9") {
		t.Errorf("an exec that exits with 9: %v", err)
	}
	if _, err = c.Exec(t.Context(), id, "/no/such/program"); err == nil || !strings.Contains(err.Error(), "/no/such/program") {
		t.Errorf("an exec of a missing program: %v", err)
	}
	// Every byte arrives, in both directions and before the exit does.
	out, err := c.Shell(t.Context(), "head -c 3000000 /dev/zero | crictl exec -i "+id+" /bin/busybox sh -c 'busybox wc -c; busybox seq 1 20000'")
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Fields(out); len(lines) != 20001 || lines[0] != "3000000" || lines[20000] != "20000" {
		t.Errorf("%d lines, beginning with %.30q", len(lines), out)
	}
}

func TestStats(t *testing.T) {
	c := start(t)
	p := runPod(t, c, "stats")
	id := p.run(cluster.Container{Name: "main"})
	eventually(t, "stats show the container's memory", func() bool {
		out, err := c.Shell(t.Context(), "crictl stats -o json "+id+" | jq -r '.stats[0].memory.workingSetBytes.value'")
		return err == nil && out != "0\n" && out != "null\n"
	})
}

func TestThreeContainersShareLayers(t *testing.T) {
	c := start(t)
	p := runPod(t, c, "three")
	var ids []string
	for _, name := range []string{"a", "b", "c"} {
		ids = append(ids, p.run(cluster.Container{Name: name}))
	}
	if n := len(p.disks()); n != 3 {
		t.Errorf("%d disks for pause and three containers on the same two layers: %v", n, p.disks())
	}
	for i, id := range ids {
		if _, err := c.Run(t.Context(), "crictl", "stop", "--timeout", "0", id); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Run(t.Context(), "crictl", "rm", id); err != nil {
			t.Fatal(err)
		}
		want := 3
		if i == 2 {
			want = 1 // the last user of the layers is gone, and they with it
		}
		if n := len(p.disks()); n != want {
			t.Errorf("after removing %d of 3 containers: %d disks, want %d", i+1, n, want)
		}
	}
}

func TestTwoPodsAtOnce(t *testing.T) {
	c := start(t)
	pods := []cluster.Pod{{Name: "left"}, {Name: "right"}}
	var wg sync.WaitGroup
	for _, spec := range pods {
		wg.Go(func() {
			sandbox, err := c.RunPod(t.Context(), spec)
			if err != nil {
				t.Error(err)
				return
			}
			id, err := c.RunContainer(t.Context(), sandbox, spec, cluster.Container{Name: "main-" + spec.Name})
			if err != nil {
				t.Error(err)
			} else if out, err := c.Exec(t.Context(), id, "/bin/busybox", "hostname"); err != nil || out != spec.Name+"\n" {
				t.Errorf("hostname of pod %s: %q, %v", spec.Name, out, err)
			}
			if err := c.RemovePod(context.Background(), sandbox); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// A single container without a pod and without CRI, whose image containerd
// unpacks without CRI's label that names the layer's blob.
func TestSingleContainer(t *testing.T) {
	c := start(t)
	image, err := c.Push(t.Context(), "single", cluster.File{Name: "SINGLE", Mode: 0o644})
	check(t, err)
	ctr := "ctr --namespace " + cluster.Namespace + " "
	_, err = c.Shell(t.Context(), ctr+"image pull --local --hosts-dir "+c.Dir+"/hosts --snapshotter tardev "+image)
	check(t, err)
	out, err := c.Shell(t.Context(), ctr+"run --rm --runtime io.containerd.kata-cc.v2 --runtime-config-path "+c.KataConfig(cluster.Handler)+
		" --snapshotter tardev "+image+" "+c.Unique("single")+" /bin/busybox sh -c 'echo hello; busybox ls /; exit 3'")
	if cluster.ExitCode(err) != 3 || !strings.Contains(out, "hello\n") || !strings.Contains(out, "SINGLE") {
		t.Errorf("ctr run: %q, %v", out, err)
	}
	_, err = c.Shell(t.Context(), ctr+"image rm --sync "+image)
	check(t, err)
}

// eventually waits for what is not due at once, such as a log that containerd
// copies or a first packet on a new network.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never: " + what)
		}
	}
}
