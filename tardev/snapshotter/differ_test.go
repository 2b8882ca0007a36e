package snapshotter

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/content"
	"github.com/containerd/containerd/mount"
	"github.com/containerd/containerd/namespaces"
	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// extraction is a layer that is being unpacked.
type extraction struct {
	s            *Snapshotter
	ctx          context.Context
	name, parent string
	mounts       []mount.Mount
}

func (e *extraction) key() string { return e.name + "-extract" }

// extract prepares a layer without a label that says which blob it is: only the
// differ is told.
func extract(t testing.TB, s *Snapshotter, name, parent string) *extraction {
	t.Helper()
	e := &extraction{s: s, ctx: namespaces.WithNamespace(context.WithoutCancel(t.Context()), "k8s.io"), name: name, parent: parent}
	var err error
	e.mounts, err = s.Prepare(e.ctx, e.key(), parent, snapshots.WithLabels(map[string]string{labelSnapshotRef: lastElement(name)}))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (e *extraction) apply(d ocispec.Descriptor) (ocispec.Descriptor, error) {
	if d.MediaType == "" {
		d.MediaType = ocispec.MediaTypeImageLayerGzip
	}
	return e.s.Apply(e.ctx, d, e.mounts)
}

func (e *extraction) commit() error { return e.s.Commit(e.ctx, e.name, e.key()) }

// TestApplyMakesWhatCommitTakes: the layer file is the same as that of a Commit
// without Apply, the blob is read once, and nothing is unpacked.
func TestApplyMakesWhatCommitTakes(t *testing.T) {
	c, byCommit, byApply := newContent(t), t.TempDir(), t.TempDir()
	layers, chains := c.image(t, baseTar(t), goldenTar())
	scratch, s := newSnapshotter(t, byCommit, c), newSnapshotter(t, byApply, c)
	var parent string
	for i, tar := range [][]byte{baseTar(t), goldenTar()} {
		name := fmt.Sprintf("k8s.io/%d/%s", i, chains[i])
		if err := unpack(t, scratch, name, parent, map[string]string{labelLayerDigest: layers[i].Digest.String()}); err != nil {
			t.Fatal(err)
		}
		c.opened.Store(0)
		e := extract(t, s, name, parent)
		for range 2 { // containerd may ask again
			got, err := e.apply(layers[i])
			if err != nil || got.Digest != digest.FromBytes(tar) || got.Size != int64(len(tar)) || got.MediaType != ocispec.MediaTypeImageLayer {
				t.Fatalf("applied %+v, error %v", got, err)
			}
		}
		if entries, err := os.ReadDir(e.mounts[0].Source); err != nil || len(entries) != 0 {
			t.Errorf("scratch directory has %v, error %v", entries, err)
		}
		if err := e.commit(); err != nil {
			t.Fatal(err)
		}
		if n := c.opened.Load(); n != 1 {
			t.Errorf("blob was opened %d times", n)
		}
		if !bytes.Equal(read(t, s.layerPath(name)), read(t, scratch.layerPath(name))) {
			t.Error("the layer files differ")
		}
		info, err := s.Stat(t.Context(), name)
		other, err2 := scratch.Stat(t.Context(), name)
		if err != nil || err2 != nil || info.Labels[LabelRootHash] != other.Labels[LabelRootHash] {
			t.Errorf("labels %v and %v", info.Labels, other.Labels)
		}
		parent = name
	}
	checkFiles(t, s)
}

func TestAppliedLayerThatIsNotCommittedGoes(t *testing.T) {
	c, root := newContent(t), t.TempDir()
	layers, chains := c.image(t, goldenTar())
	s := newSnapshotter(t, root, c)
	name := "k8s.io/1/" + chains[0].String()
	e := extract(t, s, name, "")
	if _, err := e.apply(layers[0]); err != nil {
		t.Fatal(err)
	}
	if err := s.Cleanup(t.Context()); err != nil { // which leaves it alone
		t.Fatal(err)
	}
	checkFiles(t, s)
	if err := s.Remove(t.Context(), e.key()); err != nil {
		t.Fatal(err)
	}
	if got := files(t, root); len(got) != 0 {
		t.Errorf("left after remove: %q", got)
	}

	e = extract(t, s, name, "")
	if _, err := e.apply(layers[0]); err != nil {
		t.Fatal(err)
	}
	// The process dies before Commit; the next knows of no Apply, and converts.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	e.s = newSnapshotter(t, root, c)
	checkFiles(t, e.s)
	if err := e.commit(); err != nil {
		t.Fatal(err)
	}
	checkFiles(t, e.s)
}

// TestApplyOfALayerThatIsThere: of another namespace, made by this process or an
// earlier one, or at the same time.
func TestApplyOfALayerThatIsThere(t *testing.T) {
	c, root := newContent(t), t.TempDir()
	layers, chains := c.image(t, goldenTar())
	s := newSnapshotter(t, root, c)
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			e := extract(t, s, fmt.Sprintf("n%d/1/%s", i, chains[0]), "")
			if got, err := e.apply(layers[0]); err != nil || got.Digest != goldenDiffID {
				t.Errorf("applied %+v, error %v", got, err)
			}
			if err := e.commit(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := c.opened.Load(); n != 1 {
		t.Errorf("blob was opened %d times", n)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = newSnapshotter(t, root, c)
	e := extract(t, s, "late/1/"+chains[0].String(), "")
	if got, err := e.apply(layers[0]); err != nil || got.Digest != goldenDiffID || got.Size != int64(len(goldenTar())) {
		t.Errorf("applied %+v, error %v", got, err)
	}
	if n := c.opened.Load(); n != 1 {
		t.Errorf("blob was opened %d times", n)
	}
	if err := e.commit(); err != nil {
		t.Error(err)
	}
	checkFiles(t, s)

	// A layer file that is damaged is not passed on for the layer.
	bad := bytes.Clone(read(t, s.layerPath(e.name)))
	bad[0] ^= 1
	write(t, s.layerPath(e.name), bad)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = newSnapshotter(t, root, c)
	e = extract(t, s, "later/1/"+chains[0].String(), "")
	if _, err := e.apply(layers[0]); !errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), s.layerPath(e.name)) {
		t.Errorf("damaged layer file: %v", err)
	}
}

func TestApplyTakesTheseMediaTypes(t *testing.T) {
	c := newContent(t)
	_, chains := c.image(t, goldenTar())
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	plain, gz, zs := c.add(t, goldenTar()), c.add(t, compress(goldenTar())), c.add(t, z.EncodeAll(goldenTar(), nil))
	for _, test := range []struct {
		media string
		blob  ocispec.Descriptor
		ok    bool
	}{
		{"application/vnd.oci.image.layer.v1.tar", plain, true},
		{"application/vnd.oci.image.layer.v1.tar+gzip", gz, true},
		{"application/vnd.oci.image.layer.v1.tar+zstd", zs, true},
		{"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", gz, true},
		{"application/vnd.docker.image.rootfs.diff.tar", plain, true},
		{"application/vnd.docker.image.rootfs.diff.tar", gz, true}, // some tools name it so
		{"application/vnd.docker.image.rootfs.diff.tar.gzip", gz, true},
		{"application/vnd.docker.image.rootfs.diff.tar.zstd", zs, true},
		{"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", gz, true},
		{"application/vnd.oci.image.layer.v1.tar+gzip+encrypted", gz, false},
		{"application/vnd.docker.image.rootfs.diff.tar.gzip+encrypted", gz, false},
		{"application/vnd.oci.image.layer.v1.tar+bzip2", gz, false},
		{"application/vnd.erofs.layer.v1", gz, false},
		{"application/vnd.oci.image.manifest.v1+json", gz, false},
	} {
		t.Run(test.media, func(t *testing.T) {
			s := newSnapshotter(t, t.TempDir(), c)
			e := extract(t, s, "k8s.io/1/"+chains[0].String(), "")
			test.blob.MediaType = test.media
			got, err := e.apply(test.blob)
			if test.ok && (err != nil || got.Digest != goldenDiffID) {
				t.Errorf("applied %+v, error %v", got, err)
			}
			if !test.ok && (!errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), test.media)) {
				t.Errorf("applied %+v, error %v", got, err)
			}
		})
	}
}

func TestApplyRefuses(t *testing.T) {
	c, root := newContent(t), t.TempDir()
	layers, chains := c.image(t, goldenTar())
	other := c.add(t, compress(baseTar(t)))
	s := newSnapshotter(t, root, c)
	base := "k8s.io/1/" + chains[0].String()
	if err := unpack(t, s, base, "", nil); err != nil {
		t.Fatal(err)
	}
	container, err := s.Prepare(t.Context(), "k8s.io/2/container", base)
	if err != nil {
		t.Fatal(err)
	}
	noChain, err := s.Prepare(t.Context(), "k8s.io/3/extract-1 x", base)
	if err != nil {
		t.Fatal(err)
	}
	e := extract(t, s, "k8s.io/4/"+digest.FromString("another chain").String(), "")
	elsewhere := []mount.Mount{{Type: "bind", Source: t.TempDir()}}
	unknown := []mount.Mount{{Type: "bind", Source: filepath.Join(root, "staging", scratchPrefix+"x")}}
	for name, test := range map[string]struct {
		mounts []mount.Mount
		blob   ocispec.Descriptor
		class  func(error) bool
		says   string
	}{
		"mounts of a container":           {container, layers[0], errdefs.IsNotImplemented, root},
		"mounts of another snapshotter":   {elsewhere, layers[0], errdefs.IsNotImplemented, root},
		"no mounts":                       {nil, layers[0], errdefs.IsNotImplemented, root},
		"a scratch directory of nobody's": {unknown, layers[0], errdefs.IsNotImplemented, root},
		"a layer without chain id":        {noChain, layers[0], errdefs.IsNotImplemented, "k8s.io/3/extract-1 x"},
		"another layer's blob":            {e.mounts, other, errdefs.IsDataLoss, other.Digest.String()},
		"a blob that is not there":        {e.mounts, ocispec.Descriptor{Digest: goldenDiffID}, errdefs.IsNotFound, goldenDiffID},
		"no digest":                       {e.mounts, ocispec.Descriptor{Digest: "x"}, errdefs.IsInvalidArgument, `"x"`},
	} {
		test.blob.MediaType = ocispec.MediaTypeImageLayerGzip
		if _, err := s.Apply(e.ctx, test.blob, test.mounts); !test.class(err) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, key := range []string{e.key(), "k8s.io/3/extract-1 x", "k8s.io/2/container", base} {
		if err := s.Remove(t.Context(), key); err != nil {
			t.Error(err)
		}
	}
	if got := files(t, root); len(got) != 0 {
		t.Errorf("left: %q", got)
	}
}

// TestApplyIsGivenUp: containerd cancels, and removes the snapshot at once.
func TestApplyIsGivenUp(t *testing.T) {
	c, root := newContent(t), t.TempDir()
	layers, chains := c.image(t, goldenTar())
	slow := &slowContent{contentStore: c, begun: make(chan struct{}), end: make(chan struct{})}
	s := newSnapshotter(t, root, slow)
	e := extract(t, s, "k8s.io/1/"+chains[0].String(), "")
	ctx, cancel := context.WithCancel(e.ctx)
	e.ctx = ctx
	applied := make(chan error)
	go func() {
		_, err := e.apply(layers[0])
		applied <- err
	}()
	<-slow.begun
	cancel()
	removed := make(chan error)
	go func() { removed <- s.Remove(t.Context(), e.key()) }()
	close(slow.end)
	if err := <-applied; err == nil {
		t.Error("apply succeeded")
	}
	if err := <-removed; err != nil {
		t.Errorf("remove: %v", err)
	}
	if got := files(t, root); len(got) != 0 {
		t.Errorf("left: %q", got)
	}
}

// slowContent is a content store that opens a blob when told to.
type slowContent struct {
	*contentStore
	begun, end chan struct{}
}

func (c *slowContent) ReaderAt(ctx context.Context, d ocispec.Descriptor) (content.ReaderAt, error) {
	close(c.begun)
	<-c.end
	return c.contentStore.ReaderAt(ctx, d)
}
