package sandbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/internal/undo"
	"github.com/kata-cc/kata-cc/mounts"
)

func TestPositionFor(t *testing.T) {
	at := hypervisor.BDF{Device: 5}
	for version, want := range map[string]string{
		"3.2.0.azl1.genpolicy0": "0000:00:05.0", "3.2.0": "0000:00:05.0", "": "0000:00:05.0", "kata-cc 0.1": "0000:00:05.0",
		"4.1.0": "05", "10.0": "05",
	} {
		position, rootBus := positionFor(version)
		if got, err := position(at); err != nil || got != want || rootBus != (want == "05") {
			t.Errorf("version %q: %q, root bus only %t, %v; want %q", version, got, rootBus, err, want)
		}
		if _, err := position(hypervisor.BDF{}); version == "" && err == nil {
			t.Errorf("version %q: no position is one", version)
		}
	}
}

func TestGuestIDsDiffer(t *testing.T) {
	form := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	a, err := newGuestID()
	if err != nil || !form.MatchString(a) {
		t.Errorf("%q, %v", a, err)
	}
	if b, err := newGuestID(); err != nil || a == b {
		t.Errorf("%q twice, %v", b, err)
	}
}

// diskVM is a machine that has disks and nothing else.
type diskVM struct {
	hypervisor.VM
	mu     sync.Mutex
	disks  []string
	fail   error         // of the next unplug
	refuse error         // of the next plug
	full   error         // of a question for room
	asked  int           // disks that room was asked for
	wait   chan struct{} // a plug waits for it
}

func (v *diskVM) HotplugDisk(ctx context.Context, d hypervisor.Disk) (hypervisor.BDF, error) {
	if v.wait != nil {
		<-v.wait
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.refuse; err != nil {
		v.refuse = nil
		return hypervisor.BDF{}, err
	}
	v.disks = append(v.disks, d.ID)
	return hypervisor.BDF{Device: uint8(len(v.disks))}, nil
}

func (v *diskVM) Room(disks []hypervisor.Disk) error {
	v.asked = len(disks)
	return v.full
}

func (v *diskVM) UnplugDisk(_ context.Context, id string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.fail; err != nil {
		v.fail = nil
		return err
	}
	for i, d := range v.disks {
		if d == id {
			v.disks = append(v.disks[:i:i], v.disks[i+1:]...)
			return nil
		}
	}
	return errors.New("unplugged twice: " + id)
}

func (v *diskVM) has(t *testing.T, want ...string) {
	t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.disks) != len(want) {
		t.Fatalf("disks are %q, want %q", v.disks, want)
	}
	for i := range want {
		if v.disks[i] != want[i] {
			t.Fatalf("disks are %q, want %q", v.disks, want)
		}
	}
}

func withDisks(t *testing.T) (*Sandbox, *diskVM) {
	v := &diskVM{}
	s := NewSandbox(t.Context(), Options{ID: "s"})
	s.vm = v
	return s, v
}

func TestLayerIsCounted(t *testing.T) {
	s, v := withDisks(t)
	d := hypervisor.Disk{ID: "layer-a", Path: "/a"}
	first, err := s.takeLayer(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := s.takeLayer(t.Context(), d); err != nil || second != first {
		t.Errorf("second user is told %v, %v; want %v", second, err, first)
	}
	v.has(t, "layer-a")
	drop := func() {
		t.Helper()
		if err := s.dropLayer(t.Context(), d.ID); err != nil {
			t.Fatal(err)
		}
	}
	drop()
	v.has(t, "layer-a")
	v.fail = errdefs.ErrUnavailable
	if err := s.dropLayer(t.Context(), d.ID); !errdefs.IsUnavailable(err) {
		t.Errorf("%v", err)
	}
	drop() // may be repeated
	v.has(t)
	drop() // nothing any more
	if _, err := s.takeLayer(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	v.has(t, "layer-a-2") // an id is not used again
}

func TestLayerThatCannotBePlugged(t *testing.T) {
	s, v := withDisks(t)
	d := hypervisor.Disk{ID: "layer-a", Path: "/a"}
	v.refuse, v.wait = errdefs.ErrUnavailable, make(chan struct{})
	results := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := s.takeLayer(t.Context(), d)
			results <- err
		}()
	}
	close(v.wait)
	for range 2 {
		// Both share the failure, or the second tried again after it.
		<-results
	}
	for range 2 {
		if err := s.dropLayer(t.Context(), d.ID); err != nil {
			t.Error(err)
		}
	}
	v.has(t)
}

func TestLayersWithoutRoomAreNotPlugged(t *testing.T) {
	s, v := withDisks(t)
	plan := &mounts.Plan{Disks: []hypervisor.Disk{{ID: "layer-a", Path: layerFile(t)}, {ID: "layer-b", Path: layerFile(t)}}}
	if _, err := s.takeLayer(t.Context(), plan.Disks[0]); err != nil {
		t.Fatal(err)
	}
	v.full = errdefs.ErrResourceExhausted
	var back undo.Stack
	if _, err := s.plugLayers(t.Context(), &Container{sandbox: s}, plan, &back); !errdefs.IsResourceExhausted(err) {
		t.Errorf("%v", err)
	}
	if v.asked != 1 {
		t.Errorf("asked for room for %d disks, want 1: the machine has the other", v.asked)
	}
	v.has(t, "layer-a")
}

// layerFile makes a file that is no image of a format that a VMM could take it for.
func layerFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "layer")
	if err := os.WriteFile(path, make([]byte, 3*4096), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestUserThatDoesNotWaitForALayer(t *testing.T) {
	s, v := withDisks(t)
	d := hypervisor.Disk{ID: "layer-a", Path: "/a"}
	v.wait = make(chan struct{})
	plugged := make(chan error)
	go func() {
		_, err := s.takeLayer(t.Context(), d)
		plugged <- err
	}()
	for {
		s.mu.Lock()
		known := s.layers[d.ID] != nil
		s.mu.Unlock()
		if known {
			break
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.takeLayer(ctx, d); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	close(v.wait)
	if err := <-plugged; err != nil {
		t.Fatal(err)
	}
	for { // the use that was not waited for is taken back in time
		s.mu.Lock()
		users := s.layers[d.ID].users
		s.mu.Unlock()
		if users == 1 {
			break
		}
	}
	if err := s.dropLayer(t.Context(), d.ID); err != nil {
		t.Error(err)
	}
	v.has(t)
}

func TestSandboxThatWasNeverStarted(t *testing.T) {
	s := NewSandbox(t.Context(), Options{ID: "s", StateDir: t.TempDir()})
	if _, err := s.Container("s"); !errdefs.IsNotFound(err) {
		t.Errorf("%v", err)
	}
	for range 2 {
		if err := s.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if s.State() != Stopped {
		t.Errorf("state is %v", s.State())
	}
	if err := s.Start(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("start of a stopped sandbox: %v", err)
	}
}
