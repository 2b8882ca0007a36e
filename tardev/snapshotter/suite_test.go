package snapshotter

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/archive"
	"github.com/containerd/containerd/mount"
	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/containerd/snapshots/testsuite"
)

// TestContainerdSuite is containerd's own test of snapshotters. It takes an active
// snapshot for a directory that can be written and committed, which here only
// containerd's unpacker has; so an adapter plays the unpacker.
func TestContainerdSuite(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	for _, program := range []string{"mount.fuse3", "fusermount3"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("needs %s: %v", program, err)
		}
	}
	bin := t.TempDir()
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "../../cmd/kata-overlay").CombinedOutput()
	if err != nil {
		t.Fatalf("build kata-overlay: %v\n%s", err, out)
	}
	setenv(t, "PATH", bin+":"+os.Getenv("PATH"))
	setenv(t, "TMPDIR", memoryDir(t))
	if err = flag.Set("test.root", "true"); err != nil {
		t.Fatal(err)
	}
	// By this name the suite does not rename a directory of a parent, which the
	// overlay below the adapter cannot.
	testsuite.SnapshotterSuite(t, "overlayfs", func(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		// newContent would take the directory away with this test, not the suite's.
		c := newContent(t)
		s, err := New(ctx, filepath.Join(root, "store"), c)
		if err != nil {
			return nil, nil, err
		}
		u := &unpacker{Snapshotter: s, content: c, t: t, root: root, lower: map[string]string{}}
		return u, u.end, nil
	})
}

// setenv is t.Setenv for a test whose own tests are parallel.
func setenv(t *testing.T, key, value string) {
	t.Helper()
	before, was := os.LookupEnv(key)
	if err := os.Setenv(key, value); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if was {
			_ = os.Setenv(key, before)
		} else {
			_ = os.Unsetenv(key)
		}
	})
}

// unpacker is a snapshotter whose active snapshots can be written: into the
// scratch directory of a layer, above a view of its parent by kata-overlay. Commit
// packs what was written into a blob, as a builder of images would.
type unpacker struct {
	*Snapshotter
	content *contentStore
	t       *testing.T
	root    string

	mu    sync.Mutex
	lower map[string]string // mount points of parents, by active key
}

// What the adapter adds, and takes away from what it passes on.
const (
	lowerSuffix = ".lower" // of the key of the view below an active snapshot
	emptyLayer  = "empty"  // stands for the parent of a view without one
)

func (u *unpacker) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	opts = append(opts, snapshots.WithLabels(map[string]string{labelSnapshotRef: "none"}))
	if _, err := u.Snapshotter.Prepare(ctx, key, parent, opts...); err != nil {
		return nil, err
	}
	if parent != "" {
		below, err := u.Snapshotter.View(ctx, key+lowerSuffix, parent)
		if err != nil {
			return nil, err
		}
		dir, err := os.MkdirTemp(u.root, "lower")
		if err != nil {
			return nil, err
		}
		if err = mount.All(below, dir); err != nil {
			return nil, err
		}
		u.mu.Lock()
		u.lower[key] = dir
		u.mu.Unlock()
	}
	return u.Mounts(ctx, key)
}

func (u *unpacker) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	mounts, err := u.Snapshotter.Mounts(ctx, key)
	lower := u.lowerOf(key)
	if err != nil || lower == "" {
		return mounts, err
	}
	upper, work := filepath.Join(mounts[0].Source, "upper"), filepath.Join(mounts[0].Source, "work")
	for _, dir := range []string{upper, work} {
		if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
			return nil, err
		}
	}
	return []mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + lower, "upperdir=" + upper, "workdir=" + work}}}, nil
}

func (u *unpacker) lowerOf(key string) string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.lower[key]
}

func (u *unpacker) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	if parent == "" {
		if _, err := u.Stat(ctx, emptyLayer); err != nil {
			if _, err = u.Prepare(ctx, emptyLayer+"-a", ""); err != nil {
				return nil, err
			}
			if err = u.Commit(ctx, emptyLayer, emptyLayer+"-a"); err != nil {
				return nil, err
			}
		}
		parent = emptyLayer
	}
	return u.Snapshotter.View(ctx, key, parent, opts...)
}

func (u *unpacker) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	mounts, err := u.Mounts(ctx, key)
	if err != nil {
		return err
	}
	var tar bytes.Buffer
	err = mount.WithTempMount(ctx, mounts, func(dir string) error {
		return archive.WriteDiff(ctx, &tar, u.lowerOf(key), dir)
	})
	if err != nil {
		return err
	}
	blob := u.content.add(u.t, tar.Bytes())
	if err := u.dropLower(ctx, key); err != nil {
		return err
	}
	opts = append(opts, snapshots.WithLabels(map[string]string{labelLayerDigest: blob.Digest.String()}))
	return u.Snapshotter.Commit(ctx, name, key, opts...)
}

func (u *unpacker) Remove(ctx context.Context, key string) error {
	return errors.Join(u.dropLower(ctx, key), u.Snapshotter.Remove(ctx, key))
}

// dropLower takes away what is below an active snapshot.
func (u *unpacker) dropLower(ctx context.Context, key string) error {
	u.mu.Lock()
	dir := u.lower[key]
	delete(u.lower, key)
	u.mu.Unlock()
	if dir == "" {
		return nil
	}
	return errors.Join(mount.UnmountAll(dir, 0), u.Snapshotter.Remove(ctx, key+lowerSuffix))
}

// end is called when a test is over.
func (u *unpacker) end() error {
	var errs []error
	for _, dir := range u.lower {
		errs = append(errs, mount.UnmountAll(dir, 0))
	}
	return errors.Join(append(errs, u.Close())...)
}

// hidden are the labels that the adapter and the snapshotter add.
var hidden = []string{labelSnapshotRef, labelLayerDigest, LabelRootHash}

// shown takes away from what is known of a snapshot what the suite has not put there.
func shown(i snapshots.Info) snapshots.Info {
	for _, label := range hidden {
		delete(i.Labels, label)
	}
	if i.Parent == emptyLayer {
		i.Parent = ""
	}
	return i
}

func (u *unpacker) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	i, err := u.Snapshotter.Stat(ctx, key)
	return shown(i), err
}

func (u *unpacker) Update(ctx context.Context, i snapshots.Info, paths ...string) (snapshots.Info, error) {
	before, err := u.Snapshotter.Stat(ctx, i.Name)
	if err != nil {
		return before, err
	}
	labels := map[string]string{}
	for _, label := range hidden {
		if v := before.Labels[label]; v != "" {
			labels[label] = v
		}
	}
	for k, v := range i.Labels {
		labels[k] = v
	}
	i.Labels = labels
	i, err = u.Snapshotter.Update(ctx, i, paths...)
	return shown(i), err
}

func (u *unpacker) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	return u.Snapshotter.Walk(ctx, func(ctx context.Context, i snapshots.Info) error {
		if i.Name == emptyLayer || strings.HasSuffix(i.Name, lowerSuffix) {
			return nil
		}
		return fn(ctx, shown(i))
	}, filters...)
}
