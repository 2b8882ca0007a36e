package clh_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/hypervisor/clh"
	"github.com/kata-cc/kata-cc/hypervisor/clh/api"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

// TestMain makes this binary the VMM that the tests launch.
func TestMain(m *testing.M) {
	memory.Exec()
	os.Exit(m.Run())
}

// host is what a machine needs of the host, in a directory of its own.
type host struct {
	t      testing.TB
	dir    string
	o      clh.Options
	spec   hypervisor.Spec
	script memory.Script

	fds, goroutines int // before the test
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
	t.Setenv(memory.ScriptEnv, filepath.Join(dir, "script.json"))
	t.Setenv("GORACE", "atexit_sleep_ms=0") // or the VMM takes a second to exit
	h := &host{t: t, dir: dir, script: script, o: clh.Options{Path: exe, Dir: filepath.Join(dir, "vm")}}
	h.writeScript()
	h.spec = hypervisor.Spec{ID: "sb", VCPUs: 1, MemoryMiB: 128, Kernel: h.file("kernel"), Initrd: h.file("initrd")}
	h.fds, h.goroutines = countFDs(t), runtime.NumGoroutine()
	t.Cleanup(func() {
		h.wantNothingLeft()
		os.RemoveAll(dir)
	})
	return h
}

// writeScript has the VMMs from now on follow the script.
func (h *host) writeScript() {
	h.t.Helper()
	if err := os.WriteFile(os.Getenv(memory.ScriptEnv), []byte(h.script.String()), 0o600); err != nil {
		h.t.Fatal(err)
	}
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

// children lists the processes that this one has, dead ones not reaped too.
func children(t testing.TB) []string {
	t.Helper()
	var found []string
	all, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range all {
		stat, _ := os.ReadFile(path)
		if strings.Contains(string(stat), fmt.Sprintf(") S %d ", os.Getpid())) || strings.Contains(string(stat), fmt.Sprintf(") Z %d ", os.Getpid())) {
			found = append(found, string(stat))
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
	if c := children(h.t); len(c) > 0 {
		h.t.Errorf("left running: %s", c)
	}
	for range 100 {
		if countFDs(h.t) <= h.fds && runtime.NumGoroutine() <= h.goroutines {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	h.t.Errorf("%d descriptors and %d goroutines more than before", countFDs(h.t)-h.fds, runtime.NumGoroutine()-h.goroutines)
}

func countFDs(t testing.TB) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// agent listens where a guest's agent would and answers each connection with
// serve, which is to return when the connection ends.
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
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
	return path
}

// call asks the VMM's API past the driver.
func (h *host) call(method, endpoint string, answer any) {
	h.t.Helper()
	tr := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(h.o.Dir, h.spec.ID, "clh-api.sock"))
		},
	}
	req, err := http.NewRequest(method, "http://localhost/api/v1/"+endpoint, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	if answer != nil {
		if err := json.NewDecoder(resp.Body).Decode(answer); err != nil {
			h.t.Fatal(err)
		}
	}
}

// disks lists what vm.info says is plugged, ids in order.
func (h *host) disks() []string {
	h.t.Helper()
	var info api.VmInfo
	h.call(http.MethodGet, "vm.info", &info)
	ids := []string{}
	if info.Config.Disks != nil {
		for _, d := range *info.Config.Disks {
			ids = append(ids, *d.Id)
		}
	}
	return ids
}

func (h *host) wantDisks(want ...string) {
	h.t.Helper()
	if got := h.disks(); !slices.Equal(got, want) {
		h.t.Errorf("the VMM has the disks %q, want %q", got, want)
	}
}
