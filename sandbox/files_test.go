package sandbox

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/internal/undo"
	"github.com/kata-cc/kata-cc/mounts"
)

func TestLastWordsReplaceTheFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "log")
	if err := os.WriteFile(file, []byte("something longer than before"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := overwrite(file, "bye"); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(file); string(data) != "bye" || err != nil {
		t.Errorf("%q, %v", data, err)
	}
	if err := overwrite(file, strings.Repeat("x", 10_000)); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Size() != maxLastWords {
		t.Errorf("%v, %v", info.Size(), err)
	}
	// What the guest says goes to that file only.
	if err := os.Symlink(file, dir+"/link"); err != nil {
		t.Fatal(err)
	}
	if err := overwrite(dir+"/link", "x"); err == nil {
		t.Error("a link was followed")
	}
	if err := overwrite(dir+"/none", "x"); err == nil {
		t.Error("a file was made")
	}
}

func TestDeviceIsNotMadeWritableBehindAReader(t *testing.T) {
	s, v := withDisks(t)
	d := hypervisor.Disk{ID: "volume-a", Path: "/dev/loop3", ReadOnly: true}
	if _, err := s.takeLayer(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	d.ReadOnly = false
	if _, err := s.takeLayer(t.Context(), d); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "/dev/loop3") {
		t.Errorf("%v", err)
	}
	if err := s.dropLayer(t.Context(), d.ID); err != nil {
		t.Fatal(err)
	}
	v.has(t)
	if _, err := s.takeLayer(t.Context(), d); err != nil { // nobody reads it any more
		t.Error(err)
	}
}

func TestDirectVolumeIsAnnounced(t *testing.T) {
	source := t.TempDir()
	dir := mounts.DirectVolumeDir(source)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := NewSandbox(t.Context(), Options{ID: "s", StateDir: t.TempDir()})
	plan := &mounts.Plan{DirectVolumes: []mounts.DirectMount{{Source: source}}}
	var back undo.Stack
	for range 2 { // two containers of the pod
		if err := s.announce(plan, nil, &back); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "s")); err != nil {
		t.Error(err)
	}
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "s")); !os.IsNotExist(err) {
		t.Errorf("after the sandbox: %v", err)
	}
}
