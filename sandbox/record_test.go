package sandbox

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/kata-cc/kata-cc/hypervisor"
)

func TestRecord(t *testing.T) {
	dir := t.TempDir()
	r := Record{ID: "a", VMM: hypervisor.Process{PID: 4711, StartTime: 42}, NetNS: "/run/netns/x", Cgroup: "/a/b", MadeTop: "/a"}
	for range 2 { // made, then replaced
		if err := r.write(dir); err != nil {
			t.Fatal(err)
		}
	}
	got, err := ReadRecord(dir, "a")
	if err != nil || *got != r {
		t.Fatalf("read %+v, %v", got, err)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "a"))
	if err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	for path, want := range map[string]os.FileMode{"a": 0o700, "a/state.json": 0o600} {
		if info, err := os.Stat(filepath.Join(dir, path)); err != nil || info.Mode().Perm() != want {
			t.Errorf("mode of %s is %v, want %v", path, info.Mode(), want)
		}
	}
	for range 2 {
		if err := removeRecord(dir, "a"); err != nil {
			t.Error(err)
		}
	}
	if _, err := ReadRecord(dir, "a"); !errdefs.IsNotFound(err) {
		t.Errorf("after its removal: %v", err)
	}
}

func TestRecordThatCannotBeTrusted(t *testing.T) {
	dir := t.TempDir()
	for _, id := range []string{"", ".", "..", "a/b", "/etc"} {
		if _, err := ReadRecord(dir, id); !errdefs.IsInvalidArgument(err) {
			t.Errorf("id %q: %v", id, err)
		}
	}
	for text, want := range map[string]func(error) bool{
		"{":            func(err error) bool { return err != nil },
		`{"id":"b"}`:   errdefs.IsInvalidArgument,
		`{"vmm":true}`: func(err error) bool { return err != nil },
	} {
		if err := os.MkdirAll(filepath.Join(dir, "a"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "a", "state.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadRecord(dir, "a"); !want(err) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestReapLooksAfterTheMachineWithoutARecord(t *testing.T) {
	dir := t.TempDir()
	var reaped []hypervisor.Process
	reap := func(_ context.Context, id string, p hypervisor.Process) error {
		reaped = append(reaped, p)
		return nil
	}
	if found, err := Reap(t.Context(), dir, "a", reap); err != nil || found || len(reaped) != 1 {
		t.Errorf("found %v, %v, reaped %v", found, err, reaped)
	}
	r := Record{ID: "a", VMM: hypervisor.Process{PID: 4711, StartTime: 42}}
	if err := r.write(dir); err != nil {
		t.Fatal(err)
	}
	if found, err := Reap(t.Context(), dir, "a", reap); err != nil || !found || reaped[1] != r.VMM {
		t.Errorf("found %v, %v, reaped %v", found, err, reaped)
	}
	if _, err := os.Stat(filepath.Join(dir, "a")); !os.IsNotExist(err) {
		t.Error("record is left")
	}
}

func TestReapKeepsTheRecordOfWhatIsLeft(t *testing.T) {
	dir := t.TempDir()
	r := Record{ID: "a"}
	if err := r.write(dir); err != nil {
		t.Fatal(err)
	}
	fails := func(context.Context, string, hypervisor.Process) error { return errdefs.ErrUnavailable }
	if _, err := Reap(t.Context(), dir, "a", fails); !errdefs.IsUnavailable(err) {
		t.Errorf("%v", err)
	}
	if _, err := ReadRecord(dir, "a"); err != nil {
		t.Errorf("record is gone: %v", err)
	}
}
