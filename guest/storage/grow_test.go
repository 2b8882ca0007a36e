package storage

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// loop makes a loop device of a file with a file system and mounts it.
func loop(t *testing.T, fstype string, size int64) (file, device, dir string) {
	t.Helper()
	file, dir = filepath.Join(t.TempDir(), "image"), t.TempDir()
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, size); err != nil {
		t.Fatal(err)
	}
	options := map[string][]string{"ext4": {"-q", "-F", "-b", "4096"}, "xfs": {"-q", "-i", "maxpct=30"}}[fstype]
	if out, err := exec.Command("mkfs."+fstype, append(options, file)...).CombinedOutput(); err != nil {
		t.Skipf("needs mkfs.%s: %v: %s", fstype, err, out)
	}
	out, err := exec.Command("losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		t.Skipf("needs a loop device: %v: %s", err, out)
	}
	device = strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", device).CombinedOutput(); err != nil {
			t.Errorf("detach %s: %v: %s", device, err, out)
		}
	})
	if err := unix.Mount(device, dir, fstype, 0, ""); err != nil {
		t.Skipf("needs to mount %s: %v", fstype, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return file, device, dir
}

func total(t *testing.T, dir string) uint64 {
	t.Helper()
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	return fs.Blocks * uint64(fs.Bsize)
}

// The device grows while it is waited for, and the file system with it.
func TestGrow(t *testing.T) {
	for fstype, size := range map[string]int64{"ext4": 16 << 20, "xfs": 320 << 20} { // the least that mkfs.xfs makes is 300 MiB
		t.Run(fstype, func(t *testing.T) { testGrow(t, fstype, size) })
	}
}

func testGrow(t *testing.T, fstype string, size int64) {
	file, device, dir := loop(t, fstype, size)
	before, larger := total(t, dir), 4*size
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := grow(ctx, dir, uint64(larger)); !errdefs.IsFailedPrecondition(err) || total(t, dir) != before {
		t.Errorf("the device is too small: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- grow(t.Context(), dir, uint64(larger)) }()
	if err := os.Truncate(file, larger); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("losetup", "--set-capacity", device).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	err := <-done
	if errors.Is(err, unix.EPERM) {
		t.Skipf("needs the capability to exceed resource limits: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := total(t, dir); got < uint64(3*size) {
		t.Errorf("the file system has %d bytes, %d before", got, before)
	}
	if err := grow(t.Context(), dir, uint64(larger)); err != nil {
		t.Errorf("the same size again: %v", err)
	}
	if fstype != "xfs" {
		return
	}
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var now xfsGeometryV1
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, root.Fd(), xfsGeometry, uintptr(unsafe.Pointer(&now))); errno != 0 || now.MaxInodes != 30 {
		t.Errorf("inodes may take %d %% now, and 30 before: %v", now.MaxInodes, errno)
	}
}
