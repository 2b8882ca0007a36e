package main

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/mount"

	"github.com/kata-cc/kata-cc/tardev"
)

// overlayMount builds the program, puts it in PATH, makes two layer files and
// returns the mount that names them.
func overlayMount(t *testing.T) (m mount.Mount, files []string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := exec.LookPath("mount.fuse3"); err != nil {
		t.Skip("needs mount.fuse3, which Debian's package fuse3 has")
	}
	bin, dir := t.TempDir(), t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(bin, "kata-overlay"), ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	m = mount.Mount{Type: "fuse3.kata-overlay", Source: "/", Options: []string{optionPrefix + "layer-src-prefix=" + dir}}
	for _, l := range []struct{ name, file string }{{nameA, "passwd"}, {nameB, "group"}} {
		path := filepath.Join(dir, l.name)
		root := layerFile(t, path, l.file)
		m.Options = append(m.Options, option(strings.Replace(layerText(l.name), hash, root, 1)))
		files = append(files, path)
	}
	m.Options = append(m.Options, optionPrefix+"overlay-rw", "lowerdir="+nameA+":"+nameB)
	return m, files
}

// layerFile writes a layer with one file below etc, and returns its root hash.
func layerFile(t *testing.T, path, name string) string {
	t.Helper()
	var blob bytes.Buffer
	w := tar.NewWriter(&blob)
	for _, h := range []tar.Header{{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "etc/" + name, Size: 5, Mode: 0o644}} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Write([]byte("root\n")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l, err := tardev.Build(t.Context(), f, &blob, tardev.BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return l.RootHash
}

// TestContainerdMountsIt goes the way of containerd when it looks for a user.
func TestContainerdMountsIt(t *testing.T) {
	m, _ := overlayMount(t)
	var seen string
	err := mount.WithReadonlyTempMount(context.Background(), []mount.Mount{m}, func(root string) error {
		seen = root
		for _, file := range []string{"etc/passwd", "etc/group"} {
			if data, err := os.ReadFile(filepath.Join(root, file)); err != nil || string(data) != "root\n" {
				t.Errorf("%s has %q, error %v", file, data, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	wantNoServer(t, seen)
}

// wantNoServer waits until no process has target in its arguments.
func wantNoServer(t *testing.T, target string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			t.Fatal(err)
		}
		var left string
		for _, line := range lines {
			if args, err := os.ReadFile(line); err == nil && bytes.Contains(args, []byte("-stay\x00/\x00"+target)) {
				left = line
			}
		}
		if left == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %s stays after the unmount", left)
		}
	}
}

func TestDamagedLayerIsRefused(t *testing.T) {
	m, files := overlayMount(t)
	flip(t, files[0], 512*3) // the contents of etc/passwd are at 1024, all in one block with the index
	err := mount.WithReadonlyTempMount(context.Background(), []mount.Mount{m}, func(string) error { return nil })
	if err == nil || !strings.Contains(err.Error(), nameA) || !strings.Contains(err.Error(), "verity mismatch") {
		t.Errorf("error %v", err)
	}
}

func TestMissingLayerIsNamed(t *testing.T) {
	m, files := overlayMount(t)
	if err := os.Remove(files[1]); err != nil {
		t.Fatal(err)
	}
	err := mount.WithReadonlyTempMount(context.Background(), []mount.Mount{m}, func(string) error { return nil })
	if err == nil || !strings.Contains(err.Error(), nameB) {
		t.Errorf("error %v", err)
	}
	// A link is not followed out of the directory.
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, files[1]); err != nil {
		t.Fatal(err)
	}
	if err := mount.WithReadonlyTempMount(context.Background(), []mount.Mount{m}, func(string) error { return nil }); err == nil {
		t.Error("a link out of the directory is followed")
	}
}

func flip(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Fsync(int(f.Fd())); err != nil {
		t.Fatal(err)
	}
}
