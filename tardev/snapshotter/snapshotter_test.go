package snapshotter

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

func TestSeedImage(t *testing.T) {
	for name, label := range map[string]bool{"labels of CRI": true, "without them": false} {
		t.Run(name, func(t *testing.T) { testSeedImage(t, label) })
	}
}

func testSeedImage(t *testing.T, label bool) {
	c, root := newContent(t), t.TempDir()
	layers, chains := c.image(t, baseTar(t), goldenTar())
	s := newSnapshotter(t, root, c)
	parent := ""
	for i, l := range layers {
		labels := map[string]string{}
		if label {
			labels[labelLayerDigest] = l.Digest.String()
		}
		name := fmt.Sprintf("k8s.io/%d/%s", 9+2*i, chains[i])
		if err := unpack(t, s, name, parent, labels); err != nil {
			t.Fatal(err)
		}
		parent = name
	}
	mounts, err := s.Prepare(t.Context(), "k8s.io/20/container", parent)
	if err != nil {
		t.Fatal(err)
	}
	base, top := LayerName(chains[0].String()), LayerName(chains[1].String())
	info, err := s.Stat(t.Context(), fmt.Sprintf("k8s.io/9/%s", chains[0]))
	if err != nil {
		t.Fatal(err)
	}
	text := func(name, rootHash string) string {
		return "io.katacontainers.fs-opt.layer=" + base64.StdEncoding.EncodeToString([]byte(
			name+",tar,ro,io.katacontainers.fs-opt.block_device=file,io.katacontainers.fs-opt.is-layer,io.katacontainers.fs-opt.root-hash="+rootHash))
	}
	want := []string{
		"io.katacontainers.fs-opt.layer-src-prefix=" + root + "/layers",
		text(top, goldenRoot), text(base, info.Labels[LabelRootHash]),
		"io.katacontainers.fs-opt.overlay-rw",
		"lowerdir=" + top + ":" + base,
	}
	if len(mounts) != 1 || mounts[0].Type != "fuse3.kata-overlay" || mounts[0].Source != "/" || !slices.Equal(mounts[0].Options, want) {
		t.Errorf("mounts %+v\nwant options %q", mounts, want)
	}
	if info, err = s.Stat(t.Context(), parent); err != nil || info.Labels[LabelRootHash] != goldenRoot {
		t.Errorf("root hash %q, error %v", info.Labels[LabelRootHash], err)
	}
	usage, err := s.Usage(t.Context(), parent)
	if err != nil || usage.Size != 16384 || usage.Inodes != 2 {
		t.Errorf("usage %+v, error %v", usage, err)
	}
	if got := files(t, root); len(got) != 5 {
		t.Errorf("files %q, want two layer files and three of metadata", got)
	}
}

func TestLayerNameOfTheSeed(t *testing.T) {
	const key = "k8s.io/11/sha256:b7ec85bd39df687c569a301a484b47e71c45321bddfd5f41b38cbe2811ca9696"
	if got := LayerName(key); got != "2ead9678c1b2b8595710d3470068107cb66cf94006c8ea926da38860d26ac6bc" {
		t.Error(got)
	}
}

func TestRemoveTakesTheLayerFile(t *testing.T) {
	c, root := newContent(t), t.TempDir()
	_, chains := c.image(t, goldenTar())
	s := newSnapshotter(t, root, c)
	ctx := t.Context()
	one, two := "k8s.io/1/"+chains[0].String(), "default/2/"+chains[0].String()
	for _, name := range []string{one, two} {
		if err := unpack(t, s, name, "", nil); err != nil {
			t.Fatal(err)
		}
	}
	if got := files(t, root); len(got) != 3 {
		t.Fatalf("files %q, want one layer file and metadata for both namespaces", got)
	}
	if _, err := s.View(ctx, "k8s.io/3/view", one); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(ctx, one); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("remove a parent: %v", err)
	}
	for _, key := range []string{"k8s.io/3/view", one} {
		if err := s.Remove(ctx, key); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Prepare(ctx, "default/4/c", two); err != nil {
		t.Errorf("the layer of the other namespace: %v", err)
	}
	for _, key := range []string{"default/4/c", two} {
		if err := s.Remove(ctx, key); err != nil {
			t.Error(err)
		}
	}
	if got := files(t, root); len(got) != 0 {
		t.Errorf("left: %q", got)
	}
	if err := s.Remove(ctx, two); !errdefs.IsNotFound(err) {
		t.Errorf("remove again: %v", err)
	}
}

func TestStateSurvivesARestart(t *testing.T) {
	c, root := newContent(t), t.TempDir()
	_, chains := c.image(t, goldenTar())
	ctx := t.Context()
	s := newSnapshotter(t, root, c)
	name := "k8s.io/1/" + chains[0].String()
	err := unpack(t, s, name, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := s.Prepare(ctx, "k8s.io/2/container", name, snapshots.WithLabels(map[string]string{"containerd.io/snapshot/x": "y"}))
	if err != nil {
		t.Fatal(err)
	}
	scratch, err := s.Prepare(ctx, "k8s.io/3/extract", name, snapshots.WithLabels(map[string]string{labelSnapshotRef: "r"}))
	if err != nil {
		t.Fatal(err)
	}
	before := infos(t, s)
	// What a crash leaves: a layer file in the making, and one without metadata.
	for _, path := range []string{"staging/layer-123", "layers/" + LayerName("orphan"), "staging/scratch-orphan"} {
		if err = os.WriteFile(filepath.Join(root, path), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err = New(ctx, root, c); !errdefs.IsUnavailable(err) {
		t.Errorf("a second snapshotter on one root: %v", err)
	}
	if err = s.Close(); err != nil {
		t.Fatal(err)
	}
	s = newSnapshotter(t, root, c)
	if after := infos(t, s); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("before\n%v\nafter\n%v", before, after)
	}
	again, err := s.Mounts(ctx, "k8s.io/2/container")
	if err != nil || fmt.Sprint(again) != fmt.Sprint(mounts) {
		t.Errorf("mounts %v, error %v", again, err)
	}
	if got, err := s.Mounts(ctx, "k8s.io/3/extract"); err != nil || fmt.Sprint(got) != fmt.Sprint(scratch) {
		t.Errorf("mounts %v, error %v", got, err)
	}
	if got := files(t, root); len(got) != 4 {
		t.Errorf("files %q", got)
	}
}

func infos(t testing.TB, s *Snapshotter, filters ...string) []snapshots.Info {
	t.Helper()
	var list []snapshots.Info
	err := s.Walk(t.Context(), func(_ context.Context, i snapshots.Info) error {
		list = append(list, i)
		return nil
	}, filters...)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestWalkFilters(t *testing.T) {
	c := newContent(t)
	_, chains := c.image(t, goldenTar())
	s := newSnapshotter(t, t.TempDir(), c)
	name := "n/1/" + chains[0].String()
	if err := unpack(t, s, name, "", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.View(t.Context(), "n/2/view", name, snapshots.WithLabels(map[string]string{"a.b": "c"})); err != nil {
		t.Fatal(err)
	}
	for filter, want := range map[string]int{
		"": 2, "kind==view": 1, "kind==committed": 1, `parent=="` + name + `"`: 1, `name~="^n/"`: 2, `labels."a.b"==c`: 1, "kind==active": 0, "other": 0,
	} {
		var fs []string
		if filter != "" {
			fs = []string{filter}
		}
		if got := infos(t, s, fs...); len(got) != want {
			t.Errorf("%s: %v", filter, got)
		}
	}
}

func TestUpdateChangesLabelsButTheRootHash(t *testing.T) {
	c, root := newContent(t), t.TempDir()
	_, chains := c.image(t, goldenTar())
	s := newSnapshotter(t, root, c)
	name := "n/1/" + chains[0].String()
	if err := unpack(t, s, name, "", map[string]string{"containerd.io/snapshot/old": "1"}); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		labels map[string]string
		paths  []string
		want   string
	}{
		{map[string]string{"a": "1"}, []string{"labels.a"}, "map[a:1 containerd.io/snapshot.ref:REF containerd.io/snapshot/old:1 io.katacontainers.dm-verity.root-hash:ROOT]"},
		{nil, []string{"labels.a"}, "map[containerd.io/snapshot.ref:REF containerd.io/snapshot/old:1 io.katacontainers.dm-verity.root-hash:ROOT]"},
		{map[string]string{"b": "2", LabelRootHash: "bad"}, nil, "map[b:2 io.katacontainers.dm-verity.root-hash:ROOT]"},
		{nil, []string{"labels"}, "map[io.katacontainers.dm-verity.root-hash:ROOT]"},
	} {
		info, err := s.Update(t.Context(), snapshots.Info{Name: name, Labels: step.labels}, step.paths...)
		want := strings.NewReplacer("REF", chains[0].String(), "ROOT", goldenRoot).Replace(step.want)
		if err != nil || fmt.Sprint(info.Labels) != want {
			t.Errorf("%v: %v, error %v", step.paths, info.Labels, err)
		}
	}
	if _, err := s.Update(t.Context(), snapshots.Info{Name: name}, "parent"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("error %v", err)
	}
	if _, err := s.Update(t.Context(), snapshots.Info{Name: "none"}); !errdefs.IsNotFound(err) {
		t.Errorf("error %v", err)
	}
}

func TestMissingBlobSaysHowToGetIt(t *testing.T) {
	c, root := newContent(t), t.TempDir()
	c.image(t, baseTar(t)) // some other image
	s := newSnapshotter(t, root, c)
	d := digest.FromString("gone")
	err := unpack(t, s, "k8s.io/1/"+goldenDiffID, "", map[string]string{labelLayerDigest: d.String(), labelImageRef: "example.com/image:1"})
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), d.String()) || !strings.Contains(err.Error(), "`ctr -n k8s.io content fetch example.com/image:1`") {
		t.Errorf("error %v", err)
	}
	if err := unpack(t, s, "k8s.io/1/"+goldenDiffID, "", nil); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), goldenDiffID) {
		t.Errorf("without a label: %v", err)
	}
	// Without a label of CRI the images tell who has it.
	layers, chains := c.image(t, goldenTar())
	if err := c.Delete(t.Context(), layers[0].Digest); err != nil {
		t.Fatal(err)
	}
	const command = "`ctr -n k8s.io content fetch example.com/image:2`"
	name := "k8s.io/2/" + chains[0].String()
	if err := unpack(t, s, name, "", nil); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), command) || !strings.Contains(err.Error(), chains[0].String()) {
		t.Errorf("by chain id: %v", err)
	}
	e := extract(t, s, name, "")
	if _, err := e.apply(layers[0]); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), command) || !strings.Contains(err.Error(), layers[0].Digest.String()) {
		t.Errorf("by digest: %v", err)
	}
	if err := s.Remove(t.Context(), e.key()); err != nil {
		t.Fatal(err)
	}
	if got := files(t, root); len(got) != 0 {
		t.Errorf("left: %q", got)
	}
}

func TestBlobThatIsNotTheLayerIsRefused(t *testing.T) {
	c, root := newContent(t), t.TempDir()
	s := newSnapshotter(t, root, c)
	other := c.add(t, compress(baseTar(t)))
	err := unpack(t, s, "k8s.io/1/"+goldenDiffID, "", map[string]string{labelLayerDigest: other.Digest.String()})
	if !errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), goldenDiffID) {
		t.Errorf("error %v", err)
	}
	garbage := c.add(t, []byte("no layer at all"))
	if err := unpack(t, s, "k8s.io/1/"+goldenDiffID, "", map[string]string{labelLayerDigest: garbage.Digest.String()}); err == nil {
		t.Error("garbage is a layer")
	}
	if got := files(t, root); len(got) != 0 {
		t.Errorf("left: %q", got)
	}
}

func TestConcurrentCommitsConvertOnce(t *testing.T) {
	c, root := newContent(t), t.TempDir()
	layers, chains := c.image(t, goldenTar())
	s := newSnapshotter(t, root, c)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			name := fmt.Sprintf("n%d/1/%s", i, chains[0])
			if err := unpack(t, s, name, "", map[string]string{labelLayerDigest: layers[0].Digest.String()}); err != nil {
				t.Error(err)
			}
			if err := s.Cleanup(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := c.opened.Load(); n != 1 {
		t.Errorf("the blob was opened %d times", n)
	}
	for i := range 20 {
		wg.Go(func() {
			if err := s.Remove(t.Context(), fmt.Sprintf("n%d/1/%s", i, chains[0])); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := files(t, root); len(got) != 0 {
		t.Errorf("left: %q", got)
	}
}

func TestMissingLayerFileIsNamedAndComesBack(t *testing.T) {
	c, root := newContent(t), t.TempDir()
	_, chains := c.image(t, goldenTar())
	s := newSnapshotter(t, root, c)
	name := "k8s.io/1/" + chains[0].String()
	if err := unpack(t, s, name, "", nil); err != nil {
		t.Fatal(err)
	}
	path := s.layerPath(name)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Prepare(t.Context(), "k8s.io/2/c", name); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v", err)
	}
	_ = s.Close()
	s = newSnapshotter(t, root, c)
	if err := unpack(t, s, "default/3/"+chains[0].String(), "", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Prepare(t.Context(), "k8s.io/2/c", name); err != nil {
		t.Errorf("after the layer was made again: %v", err)
	}
}
