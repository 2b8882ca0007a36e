package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/kata-cc/kata-cc/mounts"
	"github.com/kata-cc/kata-cc/test/cluster"
)

// loop makes a loop device of so many MiB, with a file system if fstype is one.
func loop(t *testing.T, c *cluster.Cluster, name string, mib int, fstype string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	check(t, errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, int64(mib)<<20)))
	if fstype != "" {
		if _, err := c.Run(t.Context(), "mkfs."+fstype, "-q", "-F", file); err != nil {
			t.Skip(err)
		}
	}
	out, err := c.Run(t.Context(), "losetup", "--find", "--show", file)
	if err != nil {
		t.Skip(err)
	}
	device := strings.TrimSpace(out)
	t.Cleanup(func() {
		if _, err := c.Run(context.Background(), "losetup", "--detach", device); err != nil {
			t.Error(err)
		}
	})
	return device
}

// blocks are the volumes of a pod that are disks: raw devices, a direct-assigned
// file system, images.
type blocks struct {
	t       *testing.T
	c       *cluster.Cluster
	raw     string // device that the pod writes to
	disk    string // device of the file system
	source  string // what containers mount that from
	xfs     string // file of another file system
	atXFS   string // and what that is mounted from
	devices []cluster.Device
	mounts  []cluster.Mount
}

func prepareBlocks(t *testing.T, c *cluster.Cluster) *blocks {
	t.Helper()
	b := &blocks{t: t, c: c, raw: loop(t, c, "raw", 16, ""), disk: loop(t, c, "disk", 32, "ext4"), source: t.TempDir()}
	fixed := loop(t, c, "fixed", 16, "")
	b.runtime("add", "--volume-path", b.source, "--mount-info",
		fmt.Sprintf(`{"volume-type":"block","device":%q,"fstype":"ext4","options":["noatime"],"metadata":{"fsGroup":"2000","fsGroupChangePolicy":"OnRootMismatch"}}`, b.disk))
	t.Cleanup(func() { b.runtime("remove", "--volume-path", b.source) })
	b.xfs, b.atXFS = filepath.Join(t.TempDir(), "xfs"), t.TempDir()
	check(t, errors.Join(os.WriteFile(b.xfs, nil, 0o600), os.Truncate(b.xfs, 320<<20)))
	if _, err := c.Run(t.Context(), "mkfs.xfs", "-q", b.xfs); err != nil {
		t.Skip(err)
	}
	b.runtime("add", "--volume-path", b.atXFS, "--mount-info", fmt.Sprintf(`{"volume-type":"block","device":%q,"fstype":"xfs"}`, b.xfs))
	t.Cleanup(func() { b.runtime("remove", "--volume-path", b.atXFS) })
	image, err := c.Push(t.Context(), "data", cluster.File{Name: "dir/", Mode: 0o755}, cluster.File{Name: "dir/DATA", Mode: 0o644, Content: []byte("data")})
	check(t, err)
	check(t, c.Pull(t.Context(), image))
	t.Cleanup(func() {
		if _, err := c.Run(context.Background(), "crictl", "rmi", image); err != nil {
			t.Error(err)
		}
	})
	b.devices = []cluster.Device{{Host: b.raw, Container: "/dev/xvda", Permissions: "rwm"}, {Host: fixed, Container: "/dev/xvdb", Permissions: "r"}}
	b.mounts = []cluster.Mount{
		{Host: b.source, Container: "/data"},
		{Host: b.atXFS, Container: "/xfs"},
		{Image: &cluster.MountImage{Reference: image}, Container: "/image", ReadOnly: true},
		{Image: &cluster.MountImage{Reference: cluster.ExampleImage}, Container: "/itself", ReadOnly: true},
	}
	return b
}

// runtime runs a command on direct-assigned volumes.
func (b *blocks) runtime(args ...string) string {
	b.t.Helper()
	out, err := b.c.Run(context.Background(), append([]string{"kata-runtime", "direct-volume"}, args...)...)
	check(b.t, err)
	return out
}

func (b *blocks) wantDevices(p *pod, main, other string) {
	t := b.t
	t.Helper()
	if n := len(p.disks()); n != 8 {
		t.Errorf("the machine has %d disks, want pause, two layers that are used twice, four volumes and an image's: %v", n, p.disks())
	}
	if out, err := b.c.Exec(t.Context(), main, "/bin/busybox", "sh", "-c", "echo x | busybox dd of=/dev/xvdb conv=fsync"); err == nil {
		t.Errorf("a read-only device is written to: %q", out)
	}
	p.exec(main, "sh", "-c", "echo block | busybox dd of=/dev/xvda conv=fsync 2>/dev/null")
	if out := p.exec(other, "head", "-c", "6", "/dev/xvda"); out != "block\n" {
		t.Errorf("another container reads %q from the device", out)
	}
	p.exec(main, "sh", "-c", "echo file > /data/f && busybox sync")
	if out := p.exec(other, "stat", "-c", "%g %A", "/data"); !strings.HasPrefix(out, "2000 drwxr") {
		t.Errorf("the volume belongs to %q", out)
	}
	if out := p.exec(other, "cat", "/data/f"); out != "file\n" {
		t.Errorf("another container reads %q from the volume", out)
	}
	if out := b.runtime("stats", "--volume-path", b.source); !strings.Contains(out, `"usage"`) {
		t.Errorf("stats say %q", out)
	}
}

// An image as a volume is plugged like the layers of a container.
func (b *blocks) wantImages(p *pod, id string) {
	t := b.t
	t.Helper()
	for path, want := range map[string]string{"/image/dir/DATA": "data", "/itself/LAYER_2": ""} {
		if out := p.exec(id, "cat", path); out != want {
			t.Errorf("%s reads %q, want %q", path, out, want)
		}
	}
	if out, err := b.c.Exec(t.Context(), id, "/bin/busybox", "touch", "/image/new"); err == nil {
		t.Errorf("an image can be written to: %q", out)
	}
	left, err := b.c.Guest(t.Context(), p.sandbox, "ls /run/kata-containers/shared/containers")
	check(t, err)
	if strings.Contains(left, "-image") || strings.Contains(left, "-itself") {
		t.Errorf("the image came as copies: %s", left)
	}
}

// wantGrowth lets the file system grow while it is in use.
func (b *blocks) wantGrowth(p *pod, main, other string) {
	t := b.t
	t.Helper()
	const mib = 96
	if before := p.size(main, "/data"); before >= 64<<10 {
		t.Errorf("the volume has %d KiB from the start", before)
	}
	bytes := strconv.Itoa(mib << 20)
	if _, err := b.c.Run(t.Context(), "kata-runtime", "direct-volume", "resize", "--volume-path", b.source, "--size", bytes); err == nil || !strings.Contains(err.Error(), "must grow first") {
		t.Errorf("resize before the device has grown: %v", err)
	}
	_, err := b.c.Shell(t.Context(), fmt.Sprintf("truncate --size %s $(losetup --noheadings --output BACK-FILE %s) && losetup --set-capacity %[2]s", bytes, b.disk))
	check(t, err)
	for range 2 { // the second time there is nothing to do
		b.runtime("resize", "--volume-path", b.source, "--size", bytes)
	}
	for _, id := range []string{main, other} {
		if after := p.size(id, "/data"); after < 80<<10 {
			t.Errorf("the volume has %d KiB after it grew to %d MiB", after, mib)
		}
	}
	if out := p.exec(main, "cat", "/data/f"); out != "file\n" {
		t.Errorf("the file reads %q in the volume that has grown", out)
	}
}

// size is the size of a file system in KiB.
func (p *pod) size(id, path string) int {
	p.t.Helper()
	out := strings.Fields(p.exec(id, "df", "-k", path))
	if len(out) < 9 {
		p.t.Fatalf("df says %v", out)
	}
	n, err := strconv.Atoi(out[8])
	check(p.t, err)
	return n
}

// wantXFS: the guest has XFS, which grows with a volume that is a file.
func (b *blocks) wantXFS(p *pod, main, other string) {
	t := b.t
	t.Helper()
	p.exec(main, "sh", "-c", "echo file > /xfs/f && busybox sync")
	if before := p.size(main, "/xfs"); before >= 320<<10 {
		t.Errorf("XFS has %d KiB from the start", before)
	}
	b.runtime("resize", "--volume-path", b.atXFS, "--size", strconv.Itoa(640<<20))
	if after := p.size(other, "/xfs"); after < 500<<10 {
		t.Errorf("XFS has %d KiB after it grew to 640 MiB", after)
	}
	if out := p.exec(other, "sh", "-c", "busybox grep ' /xfs xfs ' /proc/mounts && busybox cat /xfs/f"); !strings.HasSuffix(out, "\nfile\n") {
		t.Errorf("the volume of XFS: %s", out)
	}
}

// wantOnHost: what the pod wrote is on the host, and nothing says that it has a volume.
func (b *blocks) wantOnHost() {
	t := b.t
	t.Helper()
	head := make([]byte, 6)
	f, err := os.Open(b.raw)
	check(t, err)
	_, err = f.Read(head)
	check(t, errors.Join(err, f.Close()))
	if string(head) != "block\n" {
		t.Errorf("on the host the device begins with %q", head)
	}
	entries, err := os.ReadDir(mounts.DirectVolumeDir(b.source))
	check(t, err)
	if len(entries) != 1 || entries[0].Name() != mounts.DirectVolumeFile {
		t.Errorf("beside the description of the volume: %v", entries)
	}
	if _, err := b.c.Run(t.Context(), "e2fsck", "-f", "-n", b.disk); err != nil {
		t.Errorf("the file system on the host: %v", err)
	}
	if _, err := b.c.Run(t.Context(), "xfs_repair", "-f", "-n", b.xfs); err != nil {
		t.Errorf("XFS on the host: %v", err)
	}
}
