package snapshotter

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/namespaces"
	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// life is a store that does everything once: a layer is committed above another
// and gets a container, a second namespace shares a layer, all but the base goes.
type life struct {
	layers []ocispec.Descriptor
	chains []digest.Digest
	root   string // of the store that newLife has made
}

const (
	lifeContainer = "k8s.io/20/container"
	lifeLabel     = "containerd.io/snapshot/note"
)

func (l *life) base() string   { return "k8s.io/1/" + l.chains[0].String() }
func (l *life) top() string    { return "k8s.io/3/" + l.chains[1].String() }
func (l *life) shared() string { return "default/5/" + l.chains[0].String() }

// newLife makes a store with the base layer in it.
func newLife(t testing.TB, c *contentStore) *life {
	t.Helper()
	root := memoryDir(t)
	l := &life{root: root}
	l.layers, l.chains = c.image(t, baseTar(t), goldenTar())
	s := newSnapshotter(t, root, c)
	if err := unpack(t, s, l.base(), "", map[string]string{labelLayerDigest: l.layers[0].Digest.String()}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return l
}

// memoryDir is a temporary directory in memory, if there is such a file system:
// thousands of syncs take a minute on a busy disk, and what they do is up to the
// disk that a test puts before it.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "tardev-snapshotter-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// copyTo gives a root what newLife has made, without writing it again: a store
// replaces files, it does not change them.
func (l *life) copyTo(t testing.TB, root string) {
	t.Helper()
	if _, err := makeDirs(root); err != nil {
		t.Fatal(err)
	}
	for _, file := range files(t, l.root) {
		if err := os.Link(filepath.Join(l.root, file), filepath.Join(root, file)); err != nil {
			t.Fatal(err)
		}
	}
}

// act is a request to the snapshotter.
type act struct {
	name string
	do   func(ctx context.Context, s *Snapshotter) error
}

func (l *life) acts() []act {
	return []act{
		{"prepare top", l.extract(l.top(), l.base(), 1)},
		{"commit top", commitOf(l.top())},
		{"prepare container", func(ctx context.Context, s *Snapshotter) error {
			_, err := s.Prepare(ctx, lifeContainer, l.top())
			return err
		}},
		{"label top", func(ctx context.Context, s *Snapshotter) error {
			_, err := s.Update(ctx, snapshots.Info{Name: l.top(), Labels: map[string]string{lifeLabel: "1"}}, "labels."+lifeLabel)
			return err
		}},
		{"prepare shared", l.extract(l.shared(), "", 0)},
		{"commit shared", commitOf(l.shared())},
		{"remove container", removalOf(lifeContainer)},
		{"remove shared", removalOf(l.shared())},
		{"remove top", removalOf(l.top())},
		{"prepare top again", l.extract(l.top(), l.base(), 1)},
		{"apply top", l.applyTop},
		{"give it up", removalOf(l.top() + "-extract")},
		{"prepare top anew", l.extract(l.top(), l.base(), 1)},
		{"apply top anew", l.applyTop},
		{"commit top anew", commitOf(l.top())},
	}
}

func (l *life) extract(name, parent string, layer int) func(context.Context, *Snapshotter) error {
	return func(ctx context.Context, s *Snapshotter) error {
		_, err := s.Prepare(ctx, name+"-extract", parent, snapshots.WithLabels(map[string]string{
			labelSnapshotRef: lastElement(name), labelLayerDigest: l.layers[layer].Digest.String(),
		}))
		return err
	}
}

func (l *life) applyTop(ctx context.Context, s *Snapshotter) error {
	mounts, err := s.Mounts(ctx, l.top()+"-extract")
	if err != nil {
		return err
	}
	blob := l.layers[1]
	blob.MediaType = ocispec.MediaTypeImageLayerGzip
	_, err = s.Apply(ctx, blob, mounts)
	return err
}

func commitOf(name string) func(context.Context, *Snapshotter) error {
	return func(ctx context.Context, s *Snapshotter) error { return s.Commit(ctx, name, name+"-extract") }
}

func removalOf(key string) func(context.Context, *Snapshotter) error {
	return func(ctx context.Context, s *Snapshotter) error { return s.Remove(ctx, key) }
}

// run does the acts, up to the first that fails, and tells what it begins and what
// is done.
func (l *life) run(ctx context.Context, s *Snapshotter, tell func(string)) error {
	ctx = namespaces.WithNamespace(ctx, "k8s.io")
	for _, a := range l.acts() {
		tell("begin " + a.name)
		if err := a.do(ctx, s); err != nil {
			return err
		}
		tell("done " + a.name)
	}
	return nil
}

// check compares a store that was opened again with what was told of a life.
func (l *life) check(t *testing.T, s *Snapshotter, told []string) {
	t.Helper()
	is := func(what string) bool { return slices.Contains(told, what) }
	must := map[string]bool{
		l.base():      true,
		l.top():       is("done commit top") && !is("begin remove top") || is("done commit top anew"),
		l.shared():    is("done commit shared") && !is("begin remove shared"),
		lifeContainer: is("done prepare container") && !is("begin remove container"),
	}
	for key, must := range must {
		info, err := s.Stat(t.Context(), key)
		if !must {
			continue
		}
		if err != nil {
			t.Errorf("%s is lost: %v", key, err)
			continue
		}
		if info.Kind == snapshots.KindCommitted {
			checkLayerFile(t, s.layerPath(key), info.Labels[LabelRootHash])
		} else if _, err = s.Mounts(t.Context(), key); err != nil {
			t.Errorf("mounts of %s: %v", key, err)
		}
		if key == l.top() && is("done label top") && !is("begin remove top") && info.Labels[lifeLabel] != "1" {
			t.Errorf("label of %s is lost", key)
		}
	}
	checkFiles(t, s)
}

// checkFiles fails if the store has a file that no snapshot accounts for, or lacks
// one.
func checkFiles(t *testing.T, s *Snapshotter) {
	t.Helper()
	var want []string
	for _, r := range s.store.records() {
		sn := s.store.all[r.Name]
		want = append(want, "snapshots/"+sn.file)
		if r.Kind == snapshots.KindCommitted {
			want = append(want, "layers/"+LayerName(r.Name))
		} else if r.isLayer() {
			want = append(want, "staging/"+scratchPrefix+sn.file)
			if sn.applied.layer != "" {
				want = append(want, "layers/"+sn.applied.layer)
			}
		}
	}
	slices.Sort(want)
	want = slices.Compact(want)
	var got []string
	for _, dir := range []string{"snapshots", "layers", "staging"} {
		entries, err := os.ReadDir(filepath.Join(filepath.Dir(s.dirs.layers), dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			got = append(got, dir+"/"+e.Name())
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the store has\n%s\nand should have\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// goOn does what containerd does to a store after a crash, then everything again,
// and ends with an empty store.
func (l *life) goOn(t *testing.T, s *Snapshotter) {
	t.Helper()
	ctx := t.Context()
	for _, i := range infos(t, s) {
		if i.Kind != snapshots.KindCommitted {
			if err := s.Remove(ctx, i.Name); err != nil {
				t.Errorf("remove %s: %v", i.Name, err)
			}
		}
	}
	if err := l.run(ctx, s, func(string) {}); err != nil {
		t.Errorf("the same again: %v", err)
	}
	if err := s.Cleanup(ctx); err != nil {
		t.Error(err)
	}
	for _, key := range []string{l.shared(), l.top(), l.base()} {
		if err := s.Remove(ctx, key); err != nil && !errdefs.IsNotFound(err) {
			t.Errorf("remove %s: %v", key, err)
		}
	}
	checkFiles(t, s)
	if got := infos(t, s); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// steps is a disk that tells before each change which it is, and does not make it
// if that is an error.
type steps struct {
	disk
	before func(op, path string) error
}

var errStep = errors.New("step of the disk failed")

func (d *steps) step(op, path string, do func() error) error {
	if err := d.before(op, path); err != nil {
		return &os.PathError{Op: op, Path: path, Err: err}
	}
	return do()
}

func (d *steps) Create(path string) (f diskFile, err error) {
	err = d.step("create", path, func() error {
		f, err = d.disk.Create(path)
		return err
	})
	return &stepFile{f, d}, err
}

func (d *steps) Mkdir(path string, perm os.FileMode) error {
	return d.step("mkdir", path, func() error { return d.disk.Mkdir(path, perm) })
}

func (d *steps) Rename(from, to string) error {
	return d.step("rename", to, func() error { return d.disk.Rename(from, to) })
}

func (d *steps) Remove(path string) error {
	return d.step("remove", path, func() error { return d.disk.Remove(path) })
}

func (d *steps) RemoveAll(path string) error {
	return d.step("removeall", path, func() error { return d.disk.RemoveAll(path) })
}

func (d *steps) SyncDir(path string) error {
	return d.step("syncdir", path, func() error { return d.disk.SyncDir(path) })
}

type stepFile struct {
	diskFile
	d *steps
}

func (f *stepFile) Write(b []byte) (n int, err error) {
	err = f.d.step("write", f.Name(), func() error {
		n, err = f.diskFile.Write(b)
		return err
	})
	return n, err
}

func (f *stepFile) Sync() error {
	return f.d.step("sync", f.Name(), f.diskFile.Sync)
}
