package clh_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/hypervisor/clh"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

// TestMain makes this binary the VMM that the tests launch.
func TestMain(m *testing.M) {
	memory.Exec()
	os.Exit(m.Run())
}

// host is what a machine needs of the host, in a directory of its own.
type host struct {
	t    testing.TB
	dir  string
	o    clh.Options
	spec hypervisor.Spec
	fds  int
}

// newHost prepares a machine that follows the script. When the test is over it
// fails the test if a process, a descriptor or a directory is left.
func newHost(t testing.TB, script memory.Script) *host {
	t.Helper()
	dir, err := os.MkdirTemp("", "clh") // short: socket paths are limited
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(memory.ScriptEnv, script.String())
	h := &host{t: t, dir: dir, o: clh.Options{Path: exe, Dir: filepath.Join(dir, "vm")}}
	h.spec = hypervisor.Spec{ID: "sb", VCPUs: 1, MemoryMiB: 128, Kernel: h.file("kernel"), Initrd: h.file("initrd")}
	h.fds = countFDs(t)
	t.Cleanup(func() {
		h.wantNothingLeft()
		os.RemoveAll(dir)
	})
	return h
}

// file makes a file of one block.
func (h *host) file(name string) string {
	h.t.Helper()
	path := filepath.Join(h.dir, name)
	if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
		h.t.Fatal(err)
	}
	return path
}

func (h *host) disk(id string) hypervisor.Disk {
	return hypervisor.Disk{ID: id, Path: h.file(id), ReadOnly: true, Serial: id}
}

// launch starts the machine and has it stopped when the test ends.
func (h *host) launch() hypervisor.VM {
	h.t.Helper()
	vm, err := clh.New(h.o).Launch(context.Background(), h.spec)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		if err := vm.Stop(context.Background()); err != nil {
			h.t.Errorf("stop: %v", err)
		}
	})
	return vm
}

func (h *host) boot() hypervisor.VM {
	h.t.Helper()
	vm := h.launch()
	if err := vm.Boot(context.Background()); err != nil {
		h.t.Fatal(err)
	}
	return vm
}

// vmms lists the processes that were started in this host's directory.
func (h *host) vmms() []string {
	var found []string
	all, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range all {
		env, _ := os.ReadFile(path)
		if filepath.Dir(path) != fmt.Sprintf("/proc/%d", os.Getpid()) && strings.Contains(string(env), "CLH_TEST="+h.dir) {
			found = append(found, filepath.Dir(path))
		}
	}
	return found
}

func (h *host) wantNothingLeft() {
	h.t.Helper()
	left, err := os.ReadDir(h.o.Dir)
	if err == nil && len(left) > 0 {
		h.t.Errorf("left in %s: %v", h.o.Dir, left)
	}
	for range 100 {
		if countFDs(h.t) <= h.fds {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	h.t.Errorf("%d descriptors more than before", countFDs(h.t)-h.fds)
}

func countFDs(t testing.TB) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// agent listens where a guest's agent would and answers every connection.
func (h *host) agent(name string, serve func(net.Conn)) string {
	h.t.Helper()
	path := filepath.Join(h.dir, name)
	l, err := net.Listen("unix", path)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return path
}
