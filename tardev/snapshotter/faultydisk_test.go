package snapshotter

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// diskFault is a way in which a disk fails from some step on.
type diskFault struct {
	err   error
	fails func(op string) bool
	class func(error) bool
}

var diskFaults = map[string]diskFault{
	"full": {
		unix.ENOSPC,
		func(op string) bool { return op == "create" || op == "write" || op == "mkdir" || op == "sync" },
		errdefs.IsResourceExhausted,
	},
	"read-only": {unix.EROFS, func(string) bool { return true }, errdefs.IsFailedPrecondition},
}

// TestDiskFailsAtEveryStep: from each step on, in turn, the disk is full or
// read-only. The error has its class and names what could not be done; no layer is
// lost and no half one there, and once the disk is well again so is the store.
func TestDiskFailsAtEveryStep(t *testing.T) {
	c := newContent(t)
	l := newLife(t, c)
	for name, fault := range diskFaults {
		t.Run(name, func(t *testing.T) {
			for step := 1; ; step++ {
				ended := true
				t.Run(strconv.Itoa(step), func(t *testing.T) { ended = l.failAt(t, c, step, fault) })
				if ended || t.Failed() {
					return
				}
			}
		})
	}
}

func (l *life) failAt(t *testing.T, c Content, step int, fault diskFault) (ended bool) {
	root := memoryDir(t)
	l.copyTo(t, root)
	n, well := 0, false
	var failed []string
	on := &steps{hostDisk{}, func(op, path string) error {
		if n++; n < step || well || !fault.fails(op) {
			return nil
		}
		failed = append(failed, path)
		return fault.err
	}}
	s, err := newOn(t.Context(), on, root, c)
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	err = l.run(t.Context(), s, func(what string) { told = append(told, what) })
	if err != nil && (!errors.Is(err, fault.err) || !fault.class(err) || !namesOne(err, failed)) {
		t.Errorf("after failures of %q: %v", failed, err)
	}
	if failed == nil {
		l.check(t, s, told)
		return true
	}
	if errors.Is(fault.err, unix.ENOSPC) {
		l.check(t, s, told) // a full disk hinders nobody from tidying up
	}
	well = true
	if err := s.Cleanup(t.Context()); err != nil {
		t.Error(err)
	}
	if t.Failed() {
		t.Logf("told %q, error %v", told, err)
	}
	l.goOn(t, s)
	return false
}

func namesOne(err error, paths []string) bool {
	return slices.ContainsFunc(paths, func(path string) bool { return strings.Contains(err.Error(), path) })
}

// TestSmallDisk: the same by a real file system that is too small for a layer, and
// then is mounted read-only.
func TestSmallDisk(t *testing.T) {
	root := t.TempDir()
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("needs a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, 0); err != nil {
			t.Error(err)
		}
	})
	c := newContent(t)
	_, chains := c.image(t, goldenTar(), baseTar(t))
	s, err := New(t.Context(), root, c)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	small, large := "k8s.io/1/"+chains[0].String(), "k8s.io/2/"+chains[1].String()
	if err = unpack(t, s, small, "", nil); err != nil {
		t.Fatal(err)
	}
	before := fmt.Sprint(files(t, root))
	if err = unpack(t, s, large, small, nil); !errdefs.IsResourceExhausted(err) || !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a layer larger than the disk: %v", err)
	}
	if after := fmt.Sprint(files(t, root)); after != before {
		t.Errorf("left %s\nof %s", after, before)
	}
	if err = s.Close(); err != nil {
		t.Fatal(err)
	}
	if err = unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if s, err = New(t.Context(), root, c); err != nil {
		t.Fatalf("open on a read-only disk: %v", err)
	}
	if _, err = s.Stat(t.Context(), small); err != nil {
		t.Error(err)
	}
	_, err = s.Prepare(t.Context(), "k8s.io/3/x", "", snapshots.WithLabels(map[string]string{labelSnapshotRef: "x"}))
	if !errdefs.IsFailedPrecondition(err) || !errors.Is(err, unix.EROFS) {
		t.Errorf("prepare on a read-only disk: %v", err)
	}
	if err = s.Remove(t.Context(), small); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("remove on a read-only disk: %v", err)
	}
	if _, err = os.Stat(s.layerPath(small)); err != nil {
		t.Error(err)
	}
}
