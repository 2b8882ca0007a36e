// Package clhtest is what a VMM must do for the driver, as tests: every backend
// of the API server passes the same.
package clhtest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/hypervisor/clh"
)

// Machine is what the tests are run on.
type Machine struct {
	Options clh.Options     // but for Dir
	Spec    hypervisor.Spec // of a machine that boots
	Port    uint32          // of the guest's vsock on which something listens once it is up
}

// bootTimeout bounds the wait for the guest, which may be emulated on a busy host.
const bootTimeout = time.Minute

// Run runs all tests.
func Run(t *testing.T, m Machine) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Machine)
	}{
		{"disks", testDisks},
		{"resize", testResize},
		{"errors", testErrors},
		{"killed", testKilled},
		{"boot", testBoot},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, m) })
	}
}

// host is a machine in a directory of its own.
type host struct {
	t     *testing.T
	m     Machine
	dir   string
	vm    hypervisor.VM
	layer string // a file of two blocks
}

func launch(t *testing.T, m Machine) *host {
	t.Helper()
	h := &host{t: t, m: m, dir: makeDir(t), layer: filepath.Join(t.TempDir(), "layer")}
	if err := os.WriteFile(h.layer, make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	m.Options.Dir = h.dir
	var err error
	if h.vm, err = clh.New(m.Options).Launch(t.Context(), m.Spec); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.vm.Stop(context.Background()); err != nil {
			t.Errorf("stop: %v", err)
		}
		h.wantNothingLeft()
		if t.Failed() {
			t.Logf("console:\n%s", h.vm.Console())
		}
	})
	return h
}

// makeDir makes a directory whose path is short: it will hold sockets.
func makeDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "clh")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// boot boots the machine and waits until something listens in the guest.
func boot(t *testing.T, m Machine) *host {
	t.Helper()
	h := launch(t, m)
	if err := h.vm.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), bootTimeout)
	defer cancel()
	for {
		conn, err := h.vm.Dial(ctx, m.Port)
		if err == nil {
			conn.Close()
			return h
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("dial port %d of the guest: %v", m.Port, err)
		}
	}
}

func (h *host) disk(id string) hypervisor.Disk {
	return hypervisor.Disk{ID: id, Path: h.layer, ReadOnly: true, Serial: id}
}

func (h *host) plug(id string) hypervisor.BDF {
	h.t.Helper()
	at, err := h.vm.HotplugDisk(h.t.Context(), h.disk(id))
	if err != nil {
		h.t.Fatal(err)
	}
	return at
}

func (h *host) unplug(id string) {
	h.t.Helper()
	if err := h.vm.UnplugDisk(h.t.Context(), id); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) wantNothingLeft() {
	h.t.Helper()
	left, err := os.ReadDir(h.dir)
	if err != nil || len(left) > 0 {
		h.t.Errorf("left in the machines' directory: %v, %v", left, err)
	}
}

// wantGone checks what a machine answers that no longer exists.
func (h *host) wantGone() {
	h.t.Helper()
	ctx := h.t.Context()
	_, plug := h.vm.HotplugDisk(ctx, h.disk("late"))
	_, dial := h.vm.Dial(ctx, h.m.Port)
	for what, err := range map[string]error{
		"HotplugDisk": plug, "UnplugDisk": h.vm.UnplugDisk(ctx, "late"), "Dial": dial, "Room": h.vm.Room(nil),
	} {
		if !errors.Is(err, hypervisor.ErrGone) {
			h.t.Errorf("%s of a dead machine: %v, want ErrGone", what, err)
		}
	}
}

// testDisks plugs and unplugs, one after the other and all at once.
func testDisks(t *testing.T, m Machine) {
	h := boot(t, m)
	seen := map[hypervisor.BDF]string{}
	ids := []string{"layer-0", "layer-1", "layer-2", "layer-3"}
	for _, id := range ids {
		at := h.plug(id)
		if other, ok := seen[at]; ok {
			t.Errorf("%s is at %s, where %s is", id, at, other)
		}
		seen[at] = id
	}
	root := h.disk("root")
	root.RootBus = true
	if at, err := h.vm.HotplugDisk(t.Context(), root); err != nil || at.Segment != 0 || at.Bus != 0 {
		t.Errorf("a disk for the root bus is at %s, %v", at, err)
	} else if _, err := at.PCIPath(); err != nil {
		t.Error(err)
	}
	if _, err := h.vm.HotplugDisk(t.Context(), h.disk(ids[0])); !errdefs.IsAlreadyExists(err) {
		t.Errorf("an id is used twice: %v", err)
	}
	for _, id := range append(ids, "root") {
		h.unplug(id)
		h.unplug(id) // no such disk any more
	}
	if _, err := h.vm.HotplugDisk(t.Context(), h.disk(ids[0])); !errdefs.IsAlreadyExists(err) {
		t.Errorf("an id is used again: %v", err)
	}
	if at := h.plug("again"); seen[at] == "" {
		t.Errorf("a disk is at %s, want a slot that was freed", at)
	}
	h.unplug("again")

	var all sync.WaitGroup
	for i := range 12 {
		all.Go(func() {
			id := fmt.Sprintf("many-%d", i)
			if _, err := h.vm.HotplugDisk(t.Context(), h.disk(id)); err != nil {
				t.Errorf("%s: %v", id, err)
			} else if err := h.vm.UnplugDisk(t.Context(), id); err != nil {
				t.Errorf("%s: %v", id, err)
			}
		})
	}
	all.Wait()

	if err := h.vm.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	h.wantGone()
	if e, err := h.vm.Wait(t.Context()); err != nil || e.Kind != hypervisor.ExitStopped {
		t.Errorf("the machine ended by %+v, %v", e, err)
	}
}

// testErrors checks the form of the VMM's refusals, and that they change nothing.
func testErrors(t *testing.T, m Machine) {
	h := boot(t, m)
	missing := h.disk("missing")
	missing.Path += ".gone"
	_, err := h.vm.HotplugDisk(t.Context(), missing)
	var refused *clh.APIError
	if !errors.As(err, &refused) || refused.Endpoint != "vm.add-disk" || refused.Status != http.StatusInternalServerError || len(refused.Reasons) == 0 {
		t.Errorf("a missing file: %v, want status 500 of vm.add-disk with a reason", err)
	}
	if err == nil || !strings.Contains(err.Error(), "no such file") || !strings.Contains(err.Error(), missing.Path) {
		t.Errorf("%v does not say what is wrong with which file", err)
	}
	writer := h.disk("writer")
	writer.ReadOnly = false
	h.plug("reader")
	if _, err := h.vm.HotplugDisk(t.Context(), writer); err == nil {
		t.Log("files are not locked, as before version 46") // no error is one
	} else if !errdefs.IsInternal(err) {
		t.Errorf("a writer of a file that is read: %v", err)
	}
	too := make([]hypervisor.Disk, 1000)
	for i := range too {
		too[i] = h.disk(fmt.Sprintf("too-many-%d", i))
	}
	if err := h.vm.Room(too); !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "1000 disks") {
		t.Errorf("room for 1000 disks: %v", err)
	}
	if err := h.vm.Boot(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a second boot: %v", err)
	}
	h.unplug("never-plugged")
	h.unplug("reader")
}

// testKilled: a VMM that is killed takes everything with it.
func testKilled(t *testing.T, m Machine) {
	h := boot(t, m)
	pid := h.vm.Process().PID
	family := append(Children(t, pid), pid)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if e, err := h.vm.Wait(t.Context()); err != nil || e.Kind != hypervisor.ExitKilled {
		t.Errorf("the machine ended by %+v, %v", e, err)
	}
	h.wantGone()
	for _, p := range family {
		if !Gone(p) {
			t.Errorf("process %d outlives the VMM", p)
		}
	}
	for range 2 {
		if err := h.vm.Stop(t.Context()); err != nil {
			t.Errorf("stop of a dead machine: %v", err)
		}
	}
	h.wantNothingLeft()
}

// testBoot: what cannot boot says why, and leaves nothing.
func testBoot(t *testing.T, m Machine) {
	m.Spec.Kernel += ".gone"
	h := launch(t, m)
	if _, err := h.vm.HotplugDisk(t.Context(), h.disk("early")); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a plug before the boot: %v", err)
	}
	err := h.vm.Boot(t.Context())
	var refused *clh.APIError
	if !errors.As(err, &refused) || refused.Endpoint != "vm.boot" || !strings.Contains(err.Error(), m.Spec.Kernel) {
		t.Errorf("a kernel that is missing: %v, want a refusal of vm.boot that names it", err)
	}
	if err := h.vm.Boot(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a boot after one that failed: %v", err)
	}
}

// Children lists the processes that a process has started.
func Children(t *testing.T, pid int) (list []int) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // the thread has ended
		}
		for word := range strings.FieldsSeq(string(text)) {
			child, err := strconv.Atoi(word)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, child)
		}
	}
	return list
}

// Gone waits until pid runs no more; a zombie that nobody reaps does not run.
func Gone(pid int) bool {
	for range 200 {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(stat), ") Z ") || strings.Contains(string(stat), ") X ") {
			return true
		}
		time.Sleep(20 * time.Millisecond)
	}
	return false
}
