package snapshotter

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// TestUnreadableMetadataCostsNoLayer: the metadata of a layer is damaged, in one
// way or another; the start leaves it out, and its layer file where it is. The
// layer can be pulled again beside it. What fsck moves away no longer counts.
func TestUnreadableMetadataCostsNoLayer(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, path string){
		"empty":     func(t *testing.T, path string) { write(t, path, nil) },
		"cut short": func(t *testing.T, path string) { b := read(t, path); write(t, path, b[:len(b)/2]) },
		"other name": func(t *testing.T, path string) {
			write(t, path, bytes.ReplaceAll(read(t, path), []byte("sha256:"), []byte("sha266:")))
		},
		"no kind": func(t *testing.T, path string) {
			write(t, path, bytes.ReplaceAll(read(t, path), []byte("Committed"), []byte("Comnitted")))
		},
		"a directory": func(t *testing.T, path string) { remove(t, path); mkdir(t, path) },
		"loop":        func(t *testing.T, path string) { remove(t, path); symlink(t, path) },
		"foreign name": func(t *testing.T, path string) {
			b := read(t, path)
			remove(t, path)
			write(t, filepath.Join(filepath.Dir(path), "lost+found"), b)
		},
	} {
		t.Run(name, func(t *testing.T) { testUnreadable(t, damage) })
	}
}

func testUnreadable(t *testing.T, damage func(t *testing.T, path string)) {
	c := newContent(t)
	l, root := newLife(t, c), memoryDir(t)
	l.copyTo(t, root)
	damage(t, filepath.Join(root, "snapshots", LayerName(l.base())))
	layer := filepath.Join(root, "layers", LayerName(l.base()))
	whole := read(t, layer)

	for range 2 { // a second start is no other than the first
		s := newSnapshotter(t, root, c)
		if _, err := s.Stat(t.Context(), l.base()); !errdefs.IsNotFound(err) {
			t.Errorf("unreadable snapshot: %v", err)
		}
		if err := s.Cleanup(t.Context()); err != nil {
			t.Error(err)
		}
		// Another snapshot of the layer comes and goes.
		if err := unpack(t, s, l.shared(), "", map[string]string{labelLayerDigest: l.layers[0].Digest.String()}); err != nil {
			t.Fatal(err)
		}
		if err := s.Remove(t.Context(), l.shared()); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if got := read(t, layer); !bytes.Equal(got, whole) {
			t.Fatal("layer file is another")
		}
	}

	var found []Problem
	if _, err := Check(t.Context(), root, true, func(p Problem) { found = append(found, p) }); err != nil {
		t.Fatal(err)
	}
	if len(found) != 1 || !strings.HasPrefix(found[0].Repaired, "moved to ") {
		t.Errorf("fsck: %+v", found)
	}
	s := newSnapshotter(t, root, c)
	checkFiles(t, s)
	if _, err := os.Stat(layer); !os.IsNotExist(err) {
		t.Errorf("layer file of metadata that was moved away: %v", err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	remove(t, path) // it may have other names
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

func mkdir(t *testing.T, path string) {
	t.Helper()
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
}

func symlink(t *testing.T, path string) {
	t.Helper()
	if err := os.Symlink(path, path); err != nil {
		t.Fatal(err)
	}
}
