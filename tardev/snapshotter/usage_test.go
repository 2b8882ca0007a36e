package snapshotter

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/errdefs"
)

// TestUsage: of a layer file, of a scratch directory, of a container, and of what
// is not what it should be.
func TestUsage(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []tar.Header{
		{Name: "dir/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "dir/file", Typeflag: tar.TypeReg, Mode: 0o644},
		{Name: "link", Typeflag: tar.TypeLink, Linkname: "dir/file"}, // no inode of its own
		{Name: "symlink", Typeflag: tar.TypeSymlink, Linkname: "dir"},
		{Name: ".wh.gone", Typeflag: tar.TypeReg},
	} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	c, root := newContent(t), t.TempDir()
	_, chains := c.image(t, b.Bytes())
	s := newSnapshotter(t, root, c)
	layer, container := "k8s.io/1/"+chains[0].String(), "k8s.io/2/container"
	if err := unpack(t, s, layer, "", nil); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(s.layerPath(layer))
	if err != nil {
		t.Fatal(err)
	}
	const inodes = 5 // the root, dir, file, symlink, whiteout
	if u, err := s.Usage(t.Context(), layer); err != nil || u.Size != st.Size() || u.Inodes != inodes {
		t.Errorf("layer: %+v, error %v; want %d bytes and %d inodes", u, err, st.Size(), inodes)
	}
	if _, err = s.Prepare(t.Context(), container, layer); err != nil {
		t.Fatal(err)
	}
	if u, err := s.Usage(t.Context(), container); err != nil || u != (snapshots.Usage{}) {
		t.Errorf("container: %+v, error %v", u, err)
	}
	e := extract(t, s, "k8s.io/3/x", "")
	if err = os.WriteFile(filepath.Join(e.mounts[0].Source, "file"), make([]byte, 100_000), 0o600); err != nil {
		t.Fatal(err)
	}
	if u, err := s.Usage(t.Context(), e.key()); err != nil || u.Size < 100_000 || u.Inodes != 2 {
		t.Errorf("scratch directory: %+v, error %v", u, err)
	}

	write(t, s.layerPath(layer), []byte("short"))
	if _, err = s.Usage(t.Context(), layer); !errdefs.IsDataLoss(err) {
		t.Errorf("damaged layer file: %v", err)
	}
	remove(t, s.layerPath(layer))
	if _, err = s.Usage(t.Context(), layer); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("missing layer file: %v", err)
	}
	if _, err = s.Usage(t.Context(), "none"); !errdefs.IsNotFound(err) {
		t.Errorf("no snapshot: %v", err)
	}
}

// TestUpdateDoesNotChangeWhatASnapshotIs: a layer that is being unpacked stays one,
// whatever its labels are set to, and a container does not become one.
func TestUpdateDoesNotChangeWhatASnapshotIs(t *testing.T) {
	c := newContent(t)
	layers, chains := c.image(t, goldenTar(), baseTar(t))
	s := newSnapshotter(t, t.TempDir(), c)
	base := "k8s.io/1/" + chains[0].String()
	if err := unpack(t, s, base, "", nil); err != nil {
		t.Fatal(err)
	}
	container := "k8s.io/2/container"
	before, err := s.Prepare(t.Context(), container, base)
	if err != nil {
		t.Fatal(err)
	}
	e := extract(t, s, "k8s.io/3/"+chains[1].String(), base)
	for key, labels := range map[string]map[string]string{
		container: {labelSnapshotRef: "x", labelLayerDigest: layers[1].Digest.String(), "note": "1"},
		e.key():   {"note": "1"},
	} {
		i, err := s.Update(t.Context(), snapshots.Info{Name: key, Labels: labels})
		if err != nil || i.Labels["note"] != "1" {
			t.Errorf("update %s: %+v, error %v", key, i, err)
		}
	}
	if after, err := s.Mounts(t.Context(), container); err != nil || after[0].Type != before[0].Type {
		t.Errorf("mounts of the container: %+v, error %v", after, err)
	}
	if _, err := e.apply(layers[1]); err != nil {
		t.Error(err)
	}
	if err := e.commit(); err != nil {
		t.Error(err)
	}
}
