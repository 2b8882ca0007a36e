package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kata-cc/kata-cc/test/cluster"
)

// volumePod is a pod with the volumes that a kubelet would have prepared.
type volumePod struct {
	*pod
	dir    *cluster.PodDir
	config string // directory of the ConfigMap
	shared []cluster.Mount
}

func startVolumePod(t *testing.T, c *cluster.Cluster, name string) *volumePod {
	t.Helper()
	spec := cluster.Pod{Name: name}
	d, err := c.NewPodDir(spec)
	check(t, err)
	t.Cleanup(func() { // after the pod
		if err := d.Remove(context.Background()); err != nil {
			t.Error(err)
		}
	})
	v := &volumePod{dir: d}
	v.shared, err = d.UsualMounts(name, "main")
	check(t, err)
	v.config, err = d.Write(cluster.ConfigMap, "app", map[string]string{"first": "1", "second": "1", "sub/deep": "1"})
	check(t, err)
	secret, err1 := d.Write(cluster.Secret, "keys", map[string]string{"password": "geheim"})
	downward, err2 := d.Write(cluster.DownwardAPI, "podinfo", map[string]string{"labels": `app="x"`})
	scratch, err3 := d.EmptyDir("scratch", 0)
	memory, err4 := d.EmptyDir("memory", 8<<20)
	key, err5 := d.SubPath(v.config, "first", "main", 0)
	check(t, errors.Join(err1, err2, err3, err4, err5))
	part, err := d.SubPath(scratch, "part", "main", 1)
	check(t, err)
	v.shared = append(v.shared,
		cluster.Mount{Host: v.config, Container: "/etc/app", ReadOnly: true}, cluster.Mount{Host: secret, Container: "/etc/keys", ReadOnly: true},
		cluster.Mount{Host: downward, Container: "/etc/podinfo", ReadOnly: true}, cluster.Mount{Host: scratch, Container: "/scratch"},
		cluster.Mount{Host: memory, Container: "/memory"}, cluster.Mount{Host: key, Container: "/etc/one", ReadOnly: true},
		cluster.Mount{Host: part, Container: "/part"},
	)
	v.pod = startPod(t, c, spec)
	return v
}

func (v *volumePod) reads(id, path, want string) bool {
	out, err := v.Exec(v.t.Context(), id, "/bin/busybox", "cat", path)
	return err == nil && out == want
}

// torn prints a line for each time that two files of one revision differ.
const torn = `while true; do
	d=$(busybox readlink /etc/app/..data); a=$(busybox cat /etc/app/$d/first 2>/dev/null) && b=$(busybox cat /etc/app/$d/second 2>/dev/null) &&
	{ [ "$a" = "$b" ] && echo whole $a || echo torn $a $b; }
done`

// Every kind of volume at once, in two containers of one pod.
func TestVolumes(t *testing.T) {
	c := start(t)
	b := prepareBlocks(t, c)
	v := startVolumePod(t, c, "volumes")
	all := append(slices.Clone(v.shared), b.mounts...)
	main := v.run(cluster.Container{Name: "main", Mounts: all, Devices: b.devices})
	reader := v.run(cluster.Container{Name: "reader", Command: []string{"/bin/busybox", "sh", "-c", torn}, Mounts: all, Devices: b.devices})
	v.wantFiles(main, reader)
	v.wantUpdates(main, reader)
	b.wantDevices(v.pod, main, reader)
	b.wantImages(v.pod, main)
	b.wantGrowth(v.pod, main, reader)
	b.wantXFS(v.pod, main, reader)

	// The next container of the pod finds what the last one left.
	for i, id := range []string{main, reader} {
		_, err := c.Shell(t.Context(), "crictl stop --timeout 0 "+id+" && crictl rm "+id)
		check(t, err)
		if n, want := len(v.disks()), []int{8, 1}[i]; n != want {
			t.Errorf("after %d of 2 containers the machine has %d disks, want %d: %v", i+1, n, want, v.disks())
		}
	}
	next := v.run(cluster.Container{Name: "next", Mounts: v.shared})
	if out := v.exec(next, "cat", "/scratch/f", "/memory/f", "/part/f"); out != "scratch\nmemory\npart\n" {
		t.Errorf("the next container reads %q", out)
	}
	left, err := c.Guest(t.Context(), v.sandbox, "ls /run/kata-containers/shared/containers")
	check(t, err)
	if strings.Contains(left, main) || !strings.Contains(left, next) {
		t.Errorf("the guest keeps copies of a container that is gone: %s", left)
	}
	v.wantLastWords()
	v.remove()
	b.wantOnHost()
}

func (v *volumePod) wantFiles(main, reader string) {
	t := v.t
	t.Helper()
	files := []string{cluster.ServiceAccount + "/token", cluster.ServiceAccount + "/namespace", "/etc/app/first", "/etc/app/sub/deep",
		"/etc/keys/password", "/etc/podinfo/labels", "/etc/one", "/etc/hostname"}
	if out := v.exec(main, append([]string{"cat"}, files...)...); out != "token of volumes\ndefault11geheimapp=\"x\"1volumes\n" {
		t.Errorf("%v read %q", files, out)
	}
	if out := v.exec(main, "cat", "/etc/hosts"); !strings.Contains(out, "Kubernetes-managed") {
		t.Errorf("/etc/hosts reads %q", out)
	}
	if out := v.exec(main, "sh", "-c", "echo 10.0.0.1 other >> /etc/hosts && busybox cat /etc/hosts"); !strings.Contains(out, "other") {
		t.Errorf("/etc/hosts cannot be written to: %q", out)
	}
	if out := v.exec(main, "mount"); !strings.Contains(out, " /etc/resolv.conf ") || !strings.Contains(out, " /dev/shm ") {
		t.Errorf("the container's mounts: %s", out)
	}
	if _, err := v.Exec(t.Context(), main, "/bin/busybox", "sh", "-c", "echo x > /etc/app/first"); err == nil {
		t.Error("a ConfigMap can be written to")
	}
	v.exec(main, "sh", "-c", "echo scratch > /scratch/f; echo memory > /memory/f; echo part > /part/f; echo shm > /dev/shm/f")
	if out := v.exec(reader, "cat", "/scratch/f", "/memory/f", "/scratch/part/f", "/dev/shm/f"); out != "scratch\nmemory\npart\nshm\n" {
		t.Errorf("another container reads %q", out)
	}
	if out := strings.Fields(v.exec(main, "df", "-k", "/memory")); len(out) < 9 || out[8] != "8192" {
		t.Errorf("the memory volume's size: %v", out)
	}
}

// wantUpdates changes two volumes, one several times in a row, while reader loops.
func (v *volumePod) wantUpdates(main, reader string) {
	t := v.t
	t.Helper()
	began := time.Now()
	for n := 2; n <= 6; n++ {
		text := strconv.Itoa(n)
		_, err := v.dir.Write(cluster.ConfigMap, "app", map[string]string{"first": text, "second": text, "sub/deep": text, "new": text})
		check(t, err)
		time.Sleep(500 * time.Millisecond)
	}
	_, err := v.dir.Write(cluster.Projected, "kube-api-access", map[string]string{"token": "another\n", "ca.crt": "x", "namespace": "default"})
	check(t, err)
	written := time.Now()
	eventually(t, "the last revision is read", func() bool { return v.reads(main, "/etc/app/first", "6") })
	eventually(t, "the token is read", func() bool { return v.reads(main, cluster.ServiceAccount+"/token", "another\n") })
	t.Logf("seen %v after the last of them, %v after the first", time.Since(written), time.Since(began))
	if took := time.Since(written); took > 5*time.Second {
		t.Errorf("the updates took %v", took)
	}
	if out := v.exec(main, "cat", "/etc/app/new", "/etc/app/sub/deep", "/etc/one"); out != "661" { // a subPath is not updated
		t.Errorf("new key, key in a directory and subPath read %q, want 6, 6 and 1", out)
	}
	logs, err := v.Shell(t.Context(), "crictl logs "+reader)
	check(t, err)
	if strings.Contains(logs, "torn") || strings.Count(logs, "whole") < 5 {
		t.Errorf("the reader in the guest says: %.2000s", logs)
	}
}

// wantLastWords: what a container leaves in its termination log reaches the host.
func (v *volumePod) wantLastWords() {
	t := v.t
	t.Helper()
	id := v.run(cluster.Container{Name: "words", Mounts: v.shared,
		Command: []string{"/bin/busybox", "sh", "-c", "echo something went wrong > /dev/termination-log; exit 3"}})
	eventually(t, "the container ends", func() bool {
		state, err := v.State(t.Context(), id)
		return err == nil && state == "CONTAINER_EXITED 3"
	})
	data, err := os.ReadFile(filepath.Join(v.dir.Dir, "containers/main/0a1b2c3d"))
	if err != nil || string(data) != "something went wrong\n" {
		t.Errorf("on the host the termination log reads %q, %v", data, err)
	}
}

func TestWhatCannotBeMountedIsRefused(t *testing.T) {
	c := start(t)
	p := runPod(t, c, "refused")
	for _, m := range []cluster.Mount{{Host: c.Dir + "/spec", Container: "/data"}, {Host: c.Dir + "/containerd.sock", Container: "/run/c.sock"}} {
		id, err := c.CreateContainer(t.Context(), p.sandbox, p.spec, cluster.Container{Name: "main", Mounts: []cluster.Mount{m}})
		if err == nil { // the runtime sees a container of CRI at its start
			err = c.StartContainer(t.Context(), id)
			_, rm := c.Run(t.Context(), "crictl", "rm", "--force", id)
			check(t, rm)
		}
		if err == nil || !strings.Contains(err.Error(), "mount "+m.Container) {
			t.Errorf("%+v: %v; want an error that names the mount", m, err)
		}
	}
}

// An emptyDir of huge pages is of the guest's pages: as many as the pod may use
// are set aside, and files take them from there.
func TestHugePages(t *testing.T) {
	c := start(t)
	spec := cluster.Pod{Name: "huge"}
	d, err := c.NewPodDir(spec)
	check(t, err)
	t.Cleanup(func() {
		if err := d.Remove(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := d.LimitHugePages(c, 8<<20); err != nil {
		t.Skip("needs the cgroup controller hugetlb: ", err)
	}
	var mounts []cluster.Mount
	for _, name := range []string{"left", "right"} {
		dir, err := d.HugePages(name)
		if err != nil {
			t.Skip("needs hugetlbfs: ", err)
		}
		mounts = append(mounts, cluster.Mount{Host: dir, Container: "/" + name})
	}
	p := startPod(t, c, spec)
	id := p.run(cluster.Container{Name: "main", HugeMiB: 8, Mounts: mounts})
	if out := p.exec(id, "mount"); strings.Count(out, "type hugetlbfs") != 2 {
		t.Errorf("the container's mounts: %s", out)
	}
	p.wantHugePages(8, 8) // four for each of two volumes
	p.exec(id, "fallocate", "-l", "6m", "/left/file")
	p.wantHugePages(8, 5)
	if out := p.exec(id, "sh", "-c", "busybox wc -c < /left/file; busybox grep -c . /right/file 2>&1; busybox fallocate -l 10m /right/much 2>&1; busybox ls /left"); !strings.HasPrefix(out, "6291456\n") ||
		!strings.Contains(out, "No space left on device") || !strings.HasSuffix(out, "file\n") {
		t.Errorf("within the volumes: %s", out)
	}
	p.exec(id, "rm", "/left/file", "/right/much")
	p.wantHugePages(8, 8)
	p.remove()
}

// wantHugePages compares how many pages of 2 MiB the guest has, and are free.
func (p *pod) wantHugePages(total, free int) {
	p.t.Helper()
	out, err := p.Guest(p.t.Context(), p.sandbox, "grep -e HugePages_Total -e HugePages_Free /proc/meminfo")
	check(p.t, err)
	if want := []string{"HugePages_Total:", fmt.Sprint(total), "HugePages_Free:", fmt.Sprint(free)}; !slices.Equal(strings.Fields(out), want) {
		p.t.Errorf("the guest has %q, want %q", out, want)
	}
}
