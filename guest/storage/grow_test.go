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

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// loop makes a loop device of a file with ext4 and mounts it.
func loop(t *testing.T, size int64) (file, device, dir string) {
	t.Helper()
	file, dir = filepath.Join(t.TempDir(), "image"), t.TempDir()
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, size); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", "-b", "4096", file).CombinedOutput(); err != nil {
		t.Skipf("needs mkfs.ext4: %v: %s", err, out)
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
	if err := unix.Mount(device, dir, "ext4", 0, ""); err != nil {
		t.Skipf("needs to mount ext4: %v", err)
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
func TestGrowExt4(t *testing.T) {
	file, device, dir := loop(t, 16<<20)
	before := total(t, dir)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := grow(ctx, dir, 64<<20); !errdefs.IsFailedPrecondition(err) || total(t, dir) != before {
		t.Errorf("the device is too small: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- grow(t.Context(), dir, 64<<20) }()
	if err := os.Truncate(file, 64<<20); err != nil {
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
	if got := total(t, dir); got < 48<<20 {
		t.Errorf("the file system has %d bytes, %d before", got, before)
	}
	if err := grow(t.Context(), dir, 64<<20); err != nil {
		t.Errorf("the same size again: %v", err)
	}
}
