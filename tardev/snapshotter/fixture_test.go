package snapshotter

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/content"
	"github.com/containerd/containerd/content/local"
	"github.com/containerd/containerd/namespaces"
	"github.com/containerd/containerd/snapshots"
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	goldenDiffID = "sha256:ed328a6cc2d48369c6c566dd144f55455c40934abe2a7ec4395dd08af7402df7"
	goldenRoot   = "3e180656327e86fa7aa220ff278695f1df2a2679e1aa80e8a454ccf0460c7d39"
)

// contentStore is a content store that counts what is opened of it.
type contentStore struct {
	content.Store
	dir    string
	opened atomic.Int32
	images []Image
}

func (c *contentStore) Images(context.Context) ([]Image, error) { return c.images, nil }

func (c *contentStore) ReaderAt(ctx context.Context, d ocispec.Descriptor) (content.ReaderAt, error) {
	c.opened.Add(1)
	return c.Store.ReaderAt(ctx, d)
}

// add puts a blob into the store.
func (c *contentStore) add(t testing.TB, data []byte) ocispec.Descriptor {
	t.Helper()
	d := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
	if err := content.WriteBlob(t.Context(), c.Store, d.Digest.String(), bytes.NewReader(data), d); err != nil {
		t.Fatal(err)
	}
	return d
}

// image puts an image of layers into the store and returns their chain ids.
func (c *contentStore) image(t testing.TB, tars ...[]byte) (layers []ocispec.Descriptor, chains []digest.Digest) {
	t.Helper()
	var diffIDs []digest.Digest
	for _, b := range tars {
		diffIDs = append(diffIDs, digest.FromBytes(b))
		layers = append(layers, c.add(t, compress(b)))
	}
	config := c.add(t, encode(t, ocispec.Image{RootFS: ocispec.RootFS{Type: "layers", DiffIDs: diffIDs}}))
	manifest := c.add(t, encode(t, ocispec.Manifest{Config: config, Layers: layers}))
	index := c.add(t, encode(t, ocispec.Index{Manifests: []ocispec.Descriptor{manifest}}))
	c.images = append(c.images, Image{fmt.Sprintf("example.com/image:%d", len(c.images)), index.Digest}, Image{manifest.Digest.String(), manifest.Digest})
	return layers, identity.ChainIDs(slices.Clone(diffIDs))
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func compress(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(b)
	_ = w.Close()
	return out.Bytes()
}

// goldenTar is the tar of the second layer of the example image.
func goldenTar() []byte {
	h := make([]byte, 1536)
	copy(h, "LAYER_2")
	copy(h[100:], "0000644\x000000000\x000000000\x0000000000000\x00")
	copy(h[136:], fmt.Sprintf("%011o\x00", time.Date(2024, 6, 26, 13, 53, 15, 0, time.UTC).Unix()))
	h[156] = '0'
	copy(h[257:], "ustar\x0000")
	copy(h[329:], "0000000\x000000000\x00")
	sum := 8 * int(' ')
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return h
}

// baseTar is a layer like the first of the example image.
func baseTar(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []tar.Header{
		{Name: "LAYER_1", Mode: 0o644, Typeflag: tar.TypeReg},
		{Name: "bin/", Mode: 0o755, Typeflag: tar.TypeDir},
		{Name: "bin/busybox", Mode: 0o755, Size: 1 << 20, Typeflag: tar.TypeReg},
	} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(bytes.Repeat([]byte{1}, int(h.Size))); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func newContent(t testing.TB) *contentStore {
	t.Helper()
	dir := t.TempDir()
	cs, err := local.NewStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	return &contentStore{Store: cs, dir: dir}
}

func newSnapshotter(t testing.TB, root string, c Content) *Snapshotter {
	t.Helper()
	s, err := New(t.Context(), root, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// unpack prepares and commits a layer as containerd's unpacker does.
func unpack(t testing.TB, s *Snapshotter, name, parent string, labels map[string]string) error {
	t.Helper()
	ctx := namespaces.WithNamespace(t.Context(), "k8s.io")
	all := map[string]string{labelSnapshotRef: lastElement(name)}
	for k, v := range labels {
		all[k] = v
	}
	key := name + "-extract"
	mounts, err := s.Prepare(ctx, key, parent, snapshots.WithLabels(all))
	if err != nil {
		return err
	}
	if len(mounts) != 1 || mounts[0].Type != "bind" {
		t.Errorf("mounts %+v", mounts)
	} else if err := os.WriteFile(filepath.Join(mounts[0].Source, "unpacked"), []byte("for nothing"), 0o600); err != nil {
		t.Error(err)
	}
	if err := s.Commit(ctx, name, key, snapshots.WithLabels(all)); err != nil {
		if rerr := s.Remove(ctx, key); rerr != nil {
			t.Errorf("remove after failed commit: %v", rerr)
		}
		return err
	}
	return nil
}

// files lists what is in the directories of a store.
func files(t testing.TB, root string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(root, path)
			list = append(list, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}
