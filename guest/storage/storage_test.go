package storage

import (
	"context"
	"errors"
	"os"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/guest/block"
	"github.com/kata-cc/kata-cc/internal/undo"
)

// counter is a driver that counts what is mounted and can be held up or failed.
type counter struct {
	mounts, unmounts atomic.Int32
	hold             chan struct{} // nil: no holding up
	failures         atomic.Int32  // so many mounts fail
	unmountFailures  atomic.Int32
}

func (c *counter) register(t *testing.T) {
	drivers["test"] = func(_ context.Context, j *job) error {
		c.mounts.Add(1)
		if c.hold != nil {
			<-c.hold
		}
		j.undo.Add(func(context.Context) error {
			if c.unmountFailures.Add(-1) >= 0 {
				return errors.New("busy")
			}
			c.unmounts.Add(1)
			return nil
		})
		if c.failures.Add(-1) >= 0 {
			return errors.New("refused")
		}
		return nil
	}
	t.Cleanup(func() { delete(drivers, "test") })
}

func volume(options ...string) *agentpb.Storage {
	return &agentpb.Storage{Driver: "test", Source: "s", MountPoint: Root + "/v", Options: options}
}

func TestManyUsersMountOnce(t *testing.T) {
	c := &counter{hold: make(chan struct{})}
	c.register(t)
	s := New(block.Finder{})
	var users sync.WaitGroup
	for range 10 {
		users.Go(func() {
			if err := s.Acquire(t.Context(), volume("a"), "c"); err != nil {
				t.Error(err)
			}
		})
	}
	close(c.hold)
	users.Wait()
	if err := s.Acquire(t.Context(), volume("b"), "c"); !errdefs.IsAlreadyExists(err) {
		t.Errorf("other options give %v", err)
	}
	for range 10 {
		if c.unmounts.Load() != 0 {
			t.Error("unmounted before the last user")
		}
		users.Go(func() {})
		if err := s.Release(t.Context(), Root+"/v"); err != nil {
			t.Error(err)
		}
	}
	if err := s.Release(t.Context(), Root+"/v"); err != nil {
		t.Errorf("release of what is not mounted: %v", err)
	}
	if c.mounts.Load() != 1 || c.unmounts.Load() != 1 {
		t.Errorf("mounted %d times, unmounted %d times", c.mounts.Load(), c.unmounts.Load())
	}
}

func TestPathWithinAStorage(t *testing.T) {
	c := &counter{}
	c.register(t)
	s := New(block.Finder{})
	if err := s.Acquire(t.Context(), volume(), "c"); err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]bool{
		Root + "/v": true, Root + "/v/a/b": true, Root + "/x/../v/a": true, Root + "//v": true, Root + "/v2": false, Root: false, "/": false, "": false, "v": false,
	} {
		if at, got := s.Within(p); got != want || got && at != Root+"/v" {
			t.Errorf("%q lies in %q, %v", p, at, got)
		}
	}
}

func TestFailedMountLeavesNoPlaceholder(t *testing.T) {
	c := &counter{}
	c.failures.Store(1)
	c.register(t)
	s := New(block.Finder{})
	if err := s.Acquire(t.Context(), volume(), "c"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("error is %v", err)
	}
	if c.unmounts.Load() != 1 {
		t.Error("the effects of the failed mount stay")
	}
	if err := s.Acquire(t.Context(), volume(), "c"); err != nil {
		t.Errorf("the second attempt: %v", err)
	}
}

func TestFailedReleaseIsTriedAgain(t *testing.T) {
	c := &counter{}
	c.register(t)
	s := New(block.Finder{})
	if err := s.Acquire(t.Context(), volume(), "c"); err != nil {
		t.Fatal(err)
	}
	c.unmountFailures.Store(2)
	if err := s.Release(t.Context(), Root+"/v"); err == nil {
		t.Error("the failure is not told")
	}
	if err := s.Acquire(t.Context(), volume(), "c"); err == nil {
		t.Error("what could not be unmounted is used again")
	}
	if err := s.Acquire(t.Context(), volume(), "c"); err != nil {
		t.Error(err)
	}
	if c.mounts.Load() != 2 {
		t.Errorf("mounted %d times", c.mounts.Load())
	}
	s.Close(t.Context())
	if s.Find(Root+"/v") != nil {
		t.Error("still there after Close")
	}
}

func TestWaiterCanLeave(t *testing.T) {
	c := &counter{hold: make(chan struct{})}
	c.register(t)
	s := New(block.Finder{})
	first := make(chan error)
	go func() { first <- s.Acquire(t.Context(), volume(), "c") }()
	for c.mounts.Load() == 0 {
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Acquire(ctx, volume(), "c"); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	close(c.hold)
	if err := <-first; err != nil {
		t.Error(err)
	}
}

func TestLayersNeedARootHash(t *testing.T) {
	s := New(block.Finder{})
	for name, st := range map[string]*agentpb.Storage{
		"marked as layer": {Driver: "blk", Source: "05", Fstype: "erofs", MountPoint: Layers + "/x", Options: []string{"ro", optionIsLayer}},
		"file system tar": {Driver: "blk", Source: "05", Fstype: "tar", MountPoint: Layers + "/x"},
	} {
		if err := s.Acquire(t.Context(), st, "c"); err == nil || !strings.Contains(err.Error(), "no root hash") {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}

func TestOverlayOfTheAgentsChoice(t *testing.T) {
	s := New(block.Finder{})
	for name, options := range map[string][]string{
		"the agent chooses": {"lowerdir=", "upperdir=/x"},
		"is not mounted":    {"lowerdir=../x"},
		`"/etc"`:            {"lowerdir=/etc"},
	} {
		st := &agentpb.Storage{Driver: "overlayfs", Source: "none", MountPoint: Root + "/o", Options: options}
		if err := s.Acquire(t.Context(), st, "c"); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}

func FuzzCheckMountPoint(f *testing.F) {
	for _, s := range []string{Root + "/x", Root, Root + "/../x", Root + "//x", Root + "/x/", "/etc"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, p string) {
		if checkMountPoint(p) == nil && (!strings.HasPrefix(path.Clean(p), Root+"/") || strings.Contains(p, "/../")) {
			t.Errorf("%q is taken", p)
		}
	})
}

func TestSizeOption(t *testing.T) {
	for in, want := range map[string]uint64{"size=5": 5, "size=2M": 2 << 20, "size=1g": 1 << 30, "size=3kB": 3 << 10} {
		if got, err := sizeOption([]string{in}, "size"); got != want || err != nil {
			t.Errorf("%s is %d, %v", in, got, err)
		}
	}
	if _, err := sizeOption([]string{"size=x"}, "size"); err == nil {
		t.Error("x is a size")
	}
}

// One volume of huge pages leaves another's alone, and a volume that does not
// fit gives back what it was given.
func TestHugePagesAreAddedUp(t *testing.T) {
	hugePages = t.TempDir()
	t.Cleanup(func() { hugePages = "/sys/kernel/mm/hugepages" })
	dir := hugePages + "/hugepages-2048kB"
	file := dir + "/nr_hugepages"
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(file, []byte("1\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	want := func(n string) {
		t.Helper()
		if data, err := os.ReadFile(file); strings.TrimSpace(string(data)) != n || err != nil {
			t.Errorf("%s pages are set aside, %v; want %s", data, err, n)
		}
	}
	reserve := func(options ...string) *job {
		t.Helper()
		j := &job{st: &agentpb.Storage{Options: options}, undo: &undo.Stack{}}
		if err := j.reserveHugePages(); err != nil {
			t.Fatal(err)
		}
		return j
	}
	first := reserve("pagesize=2097152,size=8388608") // as one string
	want("5")
	second := reserve("pagesize=2M", "size=5M")
	want("8")
	for _, j := range []*job{first, second} {
		if err := j.undo.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	want("1")
	for _, options := range [][]string{{"size=8M"}, {"pagesize=2M"}, {"pagesize=x", "size=1M"}} {
		j := &job{st: &agentpb.Storage{Options: options}, undo: &undo.Stack{}}
		if err := j.reserveHugePages(); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", options, err)
		}
	}
}

// The data of an emptyDir is there for the container that comes after the last.
func TestVolumesOfThePodStay(t *testing.T) {
	dir := t.TempDir()
	s := New(block.Finder{})
	st := &agentpb.Storage{Driver: "local", Source: "local", Fstype: "local", MountPoint: Root + "/test" + dir, Options: []string{"mode=0777"}}
	t.Cleanup(func() { _ = os.RemoveAll(Root + "/test") })
	if err := s.Acquire(t.Context(), st, "a"); err != nil {
		t.Skip(err) // not root
	}
	if err := s.Release(t.Context(), st.GetMountPoint()); err != nil || s.Find(st.GetMountPoint()) != nil {
		t.Errorf("a volume of a container that was never made stays: %v", err)
	}
	if err := s.Acquire(t.Context(), st, "a"); err != nil {
		t.Fatal(err)
	}
	s.Keep([]string{st.GetMountPoint()})
	if err := errors.Join(os.WriteFile(st.GetMountPoint()+"/f", nil, 0o600), s.Release(t.Context(), st.GetMountPoint()), s.Acquire(t.Context(), st, "b")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(st.GetMountPoint() + "/f"); err != nil {
		t.Errorf("for the next container: %v", err)
	}
	s.Close(t.Context())
	if _, err := os.Stat(st.GetMountPoint()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after the sandbox: %v", err)
	}
}

func TestSizeBeyondMemoryIsNoLimit(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"mode=1777,size=4096", "mode=1777,size=4096"}, {"size=50%", "size=50%"}, {"mode=1777", "mode=1777"},
		{"mode=1777,size=1152921504606846976", "mode=1777"}, {"size=1048576G,mode=0", "mode=0"},
	} {
		got, err := withinMemory(strings.Split(c.in, ","))
		if err != nil || strings.Join(got, ",") != c.want {
			t.Errorf("%s becomes %q, %v; want %s", c.in, got, err, c.want)
		}
	}
}
