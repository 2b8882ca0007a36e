package clh_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/hypervisor/clh"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

func TestFailedBootTellsWhatWasPrinted(t *testing.T) {
	for name, script := range map[string]memory.Script{
		"refused": {Console: "early\nKernel panic - not syncing\n", BootError: "no bootable payload"},
		"died": {Console: "early\nKernel panic - not syncing\n",
			Faults: []memory.Fault{{Endpoint: "vm.boot", Do: "die-after", Status: 1, Text: "thread 'vmm' panicked: no bootable payload"}}},
	} {
		t.Run(name, func(t *testing.T) {
			vm := newHost(t, script).launch()
			err := vm.Boot(t.Context())
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range []string{"no bootable payload", "guest's console", "Kernel panic - not syncing"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error does not say %q: %v", want, err)
				}
			}
			if name == "died" && (!errors.Is(err, hypervisor.ErrGone) || !strings.Contains(err.Error(), "exit status 1")) {
				t.Errorf("error: %v, want ErrGone and the exit status", err)
			}
			if err := vm.Boot(t.Context()); err == nil {
				t.Error("a second Boot succeeds")
			}
		})
	}
}

func TestVMMThatDoesNotStartLeavesNothing(t *testing.T) {
	for name, tc := range map[string]struct {
		path   string
		script memory.Script
		want   string
	}{
		"missing":            {path: "/nonexistent/vmm", want: "no such file"},
		"exits":              {path: "/bin/false", want: "exit status 1"},
		"dies at ping":       {script: memory.Script{Faults: []memory.Fault{{Endpoint: "vmm.ping", Do: "die", Status: 3, Text: "cannot open /dev/kvm"}}}, want: "cannot open /dev/kvm"},
		"dies at vm.create":  {script: memory.Script{Faults: []memory.Fault{{Endpoint: "vm.create", Do: "die"}}}, want: "signal: killed"},
		"refuses vm.create":  {script: memory.Script{Faults: []memory.Fault{{Endpoint: "vm.create", Do: "fail", Text: "no consoles"}}}, want: "no consoles"},
		"never answers ping": {script: memory.Script{Faults: []memory.Fault{{Endpoint: "vmm.ping", Do: "stuck"}}}, want: "no answer within"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, tc.script)
			h.o.APITimeout, h.o.StopTimeout = time.Second, 50*time.Millisecond
			if tc.path != "" {
				h.o.Path = tc.path
			}
			_, err := clh.New(h.o).Launch(t.Context(), h.spec)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Launch: %v, want %q", err, tc.want)
			}
			h.wantNothingLeft()
		})
	}
}

func TestPlugThatFailsLeavesNoDisk(t *testing.T) {
	for name, tc := range map[string]struct {
		faults []memory.Fault
		want   func(error) bool
	}{
		"refused":       {[]memory.Fault{{Endpoint: "vm.add-disk", Call: 2, Do: "fail"}}, errdefs.IsInternal},
		"answer lost":   {[]memory.Fault{{Endpoint: "vm.add-disk", Call: 2, Do: "drop"}}, errdefs.IsUnavailable},
		"done but 500":  {[]memory.Fault{{Endpoint: "vm.add-disk", Call: 2, Do: "fail-after"}}, errdefs.IsInternal},
		"answered late": {[]memory.Fault{{Endpoint: "vm.add-disk", Call: 2, Do: "late", For: memory.Duration(300 * time.Millisecond)}}, errdefs.IsDeadlineExceeded},
		"heard late":    {[]memory.Fault{{Endpoint: "vm.add-disk", Call: 2, Do: "delay", For: memory.Duration(300 * time.Millisecond)}}, errdefs.IsDeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, memory.Script{Faults: tc.faults})
			h.o.HotplugTimeout = 100 * time.Millisecond
			vm := h.boot()
			first, err := vm.HotplugDisk(t.Context(), h.disk("a"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err = vm.HotplugDisk(t.Context(), h.disk("b")); !tc.want(err) {
				t.Errorf("HotplugDisk: %v", err)
			}
			h.wantDisks("a")
			if _, err = vm.HotplugDisk(t.Context(), h.disk("b")); !errdefs.IsAlreadyExists(err) {
				t.Errorf("an id is used twice: %v", err)
			}
			at, err := vm.HotplugDisk(t.Context(), h.disk("c"))
			if want := (hypervisor.BDF{Segment: first.Segment + 1, Device: first.Device}); err != nil || at != want {
				t.Errorf("the next disk is at %s (%v), want %s, the slot that the failed one had", at, err, want)
			}
		})
	}
}

func TestPlugOfAMissingFile(t *testing.T) {
	h := newHost(t, memory.Script{})
	vm := h.boot()
	_, err := vm.HotplugDisk(t.Context(), hypervisor.Disk{ID: "layer", Path: filepath.Join(h.dir, "none")})
	var refused *clh.APIError
	if !errors.As(err, &refused) || refused.Status != http.StatusInternalServerError || refused.Endpoint != "vm.add-disk" {
		t.Errorf("HotplugDisk: %#v", err)
	}
	h.wantDisks()
}

func TestHungVMMHoldsNobodyLongerThanHisTime(t *testing.T) {
	h := newHost(t, memory.Script{Faults: []memory.Fault{{Endpoint: "vm.add-disk", Do: "hang"}}})
	h.o.HotplugTimeout, h.o.APITimeout, h.o.StopTimeout = 50*time.Millisecond, time.Second, 100*time.Millisecond
	vm := h.boot()
	if _, err := vm.HotplugDisk(t.Context(), h.disk("a")); !errdefs.IsDeadlineExceeded(err) {
		t.Errorf("HotplugDisk: %v, want deadline exceeded", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := vm.UnplugDisk(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("UnplugDisk: %v, want deadline exceeded", err)
	}
	if err := vm.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestCallWaitingForAnotherEndsWithItsContext(t *testing.T) {
	h := newHost(t, memory.Script{Faults: []memory.Fault{{Endpoint: "vm.add-disk", Call: 1, Do: "delay", For: memory.Duration(500 * time.Millisecond)}}})
	vm := h.boot()
	first := make(chan error, 1)
	go func() {
		_, err := vm.HotplugDisk(t.Context(), h.disk("slow"))
		first <- err
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	vm.HotplugDisk(ctx, h.disk("hasty"))
	if ctx.Err() == nil && len(first) == 0 { // it may have been the first
		t.Error("the second call did not wait for the first")
	}
	if err := <-first; err != nil {
		t.Errorf("the call it waited for: %v", err)
	}
}

func TestUnplugThatFailsMayBeCalledAgain(t *testing.T) {
	h := newHost(t, memory.Script{Faults: []memory.Fault{{Endpoint: "vm.remove-device", Call: 1, Do: "fail"}}})
	vm := h.boot()
	if _, err := vm.HotplugDisk(t.Context(), h.disk("a")); err != nil {
		t.Fatal(err)
	}
	if err := vm.UnplugDisk(t.Context(), "a"); !errdefs.IsInternal(err) {
		t.Errorf("UnplugDisk: %v, want internal", err)
	}
	h.wantDisks("a")
	for range 2 { // the second finds nothing to do
		if err := vm.UnplugDisk(t.Context(), "a"); err != nil {
			t.Error(err)
		}
	}
	h.wantDisks()
}

func TestGuestThatKeepsADiskKeepsItsSlot(t *testing.T) {
	for _, version := range []string{"40", "53.0.0", "54"} {
		t.Run(version, func(t *testing.T) {
			h := newHost(t, memory.Script{Version: version, Eject: memory.Never})
			h.o.UnplugTimeout = 100 * time.Millisecond
			vm := h.boot()
			at, err := vm.HotplugDisk(t.Context(), h.disk("a"))
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // 53.0 refuses to be asked twice
				if err := vm.UnplugDisk(t.Context(), "a"); !errdefs.IsDeadlineExceeded(err) {
					t.Errorf("UnplugDisk: %v, want deadline exceeded", err)
				}
			}
			if other, err := vm.HotplugDisk(t.Context(), h.disk("b")); err != nil || other == at {
				t.Errorf("the next disk is at %s, %v; %s is not free", other, err, at)
			}
			if _, err := vm.HotplugDisk(t.Context(), h.disk("a")); !errdefs.IsAlreadyExists(err) {
				t.Errorf("the id of a disk that the guest has is used again: %v", err)
			}
		})
	}
}

func TestSlowGuestIsWaitedFor(t *testing.T) {
	h := newHost(t, memory.Script{Eject: memory.Duration(50 * time.Millisecond)})
	vm := h.boot()
	at, err := vm.HotplugDisk(t.Context(), h.disk("a"))
	if err != nil {
		t.Fatal(err)
	}
	if err := vm.UnplugDisk(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if next, err := vm.HotplugDisk(t.Context(), h.disk("b")); err != nil || next != at {
		t.Errorf("the next disk is at %s, %v; want the freed %s", next, err, at)
	}
}

func TestSlotsOfTheRootBusRunOut(t *testing.T) {
	h := newHost(t, memory.Script{Reserved: []uint8{1, 3}})
	vm := h.boot()
	disk := func(id string) hypervisor.Disk {
		d := h.disk(id)
		d.RootBus = true
		return d
	}
	// 32 slots: host bridge, two reserved, rng, vsock.
	seen := map[hypervisor.BDF]bool{}
	for i := range 27 {
		at, err := vm.HotplugDisk(t.Context(), disk("d"+string(rune('A'+i))))
		if err != nil || seen[at] || at.Segment != 0 {
			t.Fatalf("disk %d: at %s, %v", i, at, err)
		}
		seen[at] = true
	}
	if _, err := vm.HotplugDisk(t.Context(), disk("one-more")); !errdefs.IsResourceExhausted(err) {
		t.Errorf("one disk more: %v, want resource exhausted", err)
	}
	if err := vm.UnplugDisk(t.Context(), "dA"); err != nil {
		t.Fatal(err)
	}
	if _, err := vm.HotplugDisk(t.Context(), disk("again")); err != nil {
		t.Error(err)
	}
}

func TestManyPlugsAtOnce(t *testing.T) {
	h := newHost(t, memory.Script{})
	vm := h.boot()
	var mu sync.Mutex
	seen := map[hypervisor.BDF]bool{}
	var all sync.WaitGroup
	for i := range 20 {
		d := h.disk(fmt.Sprintf("layer%d", i))
		all.Go(func() {
			at, err := vm.HotplugDisk(t.Context(), d)
			mu.Lock()
			defer mu.Unlock()
			if err != nil || seen[at] {
				t.Errorf("%s is at %s, %v", d.ID, at, err)
			}
			seen[at] = true
		})
	}
	all.Wait()
	for i := range 20 {
		all.Go(func() {
			if err := vm.UnplugDisk(t.Context(), fmt.Sprintf("layer%d", i)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	h.wantDisks()
}

func TestUnplugWhilePlugging(t *testing.T) {
	h := newHost(t, memory.Script{Faults: []memory.Fault{{Endpoint: "vm.add-disk", Call: 1, Do: "delay", For: memory.Duration(50 * time.Millisecond)}}})
	vm := h.boot()
	d := h.disk("a")
	done := make(chan error, 1)
	go func() {
		_, err := vm.HotplugDisk(t.Context(), d)
		done <- err
	}()
	for range 3 {
		time.Sleep(10 * time.Millisecond)
		if err := vm.UnplugDisk(t.Context(), "a"); err != nil {
			t.Error(err)
		}
	}
	<-done // it may have been the earlier or the later of the two
	if err := vm.UnplugDisk(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	h.wantDisks()
}

func TestDiesWhilePlugging(t *testing.T) {
	h := newHost(t, memory.Script{Faults: []memory.Fault{{Endpoint: "vm.add-disk", Do: "die"}}})
	vm := h.boot()
	if _, err := vm.HotplugDisk(t.Context(), h.disk("a")); !errors.Is(err, hypervisor.ErrGone) {
		t.Errorf("HotplugDisk: %v, want ErrGone", err)
	}
}

func TestDiskThatCannotBe(t *testing.T) {
	h := newHost(t, memory.Script{})
	vm := h.boot()
	for name, d := range map[string]hypervisor.Disk{
		"reserved id":   {ID: "__rng", Path: "/dev/null"},
		"automatic id":  {ID: "_disk7", Path: "/dev/null"},
		"long id":       {ID: strings.Repeat("x", 64), Path: "/dev/null"},
		"long serial":   {ID: "a", Path: "/dev/null", Serial: strings.Repeat("x", 21)},
		"relative path": {ID: "a", Path: "layer"},
	} {
		if _, err := vm.HotplugDisk(t.Context(), d); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v, want invalid argument", name, err)
		}
	}
	if err := vm.UnplugDisk(t.Context(), "never-plugged"); err != nil {
		t.Errorf("UnplugDisk of no disk: %v", err)
	}
}

func TestPlugBeforeBoot(t *testing.T) {
	h := newHost(t, memory.Script{})
	vm := h.launch()
	if _, err := vm.HotplugDisk(t.Context(), h.disk("a")); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("HotplugDisk: %v, want failed precondition", err)
	}
}
