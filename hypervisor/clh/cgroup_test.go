package clh_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/hypervisor/clh"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

// makeCgroups makes a cgroup of the name below each root and removes it when the
// test is over, however soon its last process has ended.
func makeCgroups(t *testing.T, name string, roots ...string) (dirs []string) {
	t.Helper()
	for _, root := range roots {
		dir := filepath.Join(root, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Skipf("needs a cgroup of its own: %v", err)
		}
		dirs = append(dirs, dir)
		t.Cleanup(func() {
			var err error
			for range 200 {
				if err = os.Remove(dir); err == nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
			t.Errorf("a process or thread is left in the cgroup: %v", err)
		})
	}
	return dirs
}

// mountCgroups mounts a hierarchy in a directory of the test.
func mountCgroups(t *testing.T, fstype, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("cgroup", dir, fstype, 0, options); err != nil {
		t.Skipf("needs a %s file system (%s): %v", fstype, options, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// The first thing that a VMM does, long before anybody could move it, is done in
// its cgroup.
func TestVMMIsBornInItsCgroup(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	const name = "kata-cc-clh-test"
	for version, roots := range map[string]func(*testing.T) []string{
		"1": func(t *testing.T) []string {
			return []string{mountCgroups(t, "cgroup", "pids"), mountCgroups(t, "cgroup", "freezer")}
		},
		"2": func(t *testing.T) []string { return []string{mountCgroups(t, "cgroup2", "")} },
	} {
		t.Run(version, func(t *testing.T) {
			h := newHost(t, memory.Script{})
			h.spec.Cgroup = makeCgroups(t, name, roots(t)...)
			said := filepath.Join(h.dir, "said")
			h.o.Path = filepath.Join(h.dir, "vmm")
			script := "#!/bin/sh\nwhile read -r line; do echo \"$line\"; done < /proc/self/cgroup > " + said + "\n"
			if err := os.WriteFile(h.o.Path, []byte(script), 0o700); err != nil {
				t.Fatal(err)
			}
			if _, err := clh.New(h.o).Launch(t.Context(), h.spec); err == nil {
				t.Fatal("a script was taken for a VMM")
			}
			text, err := os.ReadFile(said)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Count(string(text), "/"+name+"\n"); got != len(h.spec.Cgroup) {
				t.Errorf("the VMM began in\n%swant %s in %d hierarchies", text, name, len(h.spec.Cgroup))
			}
			own, err := os.ReadFile("/proc/self/cgroup")
			if err != nil || strings.Contains(string(own), name) {
				t.Errorf("this process is in\n%s(%v), which only the VMM is to be", own, err)
			}
		})
	}
}

func TestCgroupThatIsMissing(t *testing.T) {
	h := newHost(t, memory.Script{})
	h.spec.Cgroup = []string{filepath.Join(h.dir, "missing")}
	var vm hypervisor.VM
	vm, err := clh.New(h.o).Launch(t.Context(), h.spec)
	if err == nil || !strings.Contains(err.Error(), h.spec.Cgroup[0]) {
		t.Errorf("launched %v in a cgroup that is not there: %v", vm, err)
	}
}
