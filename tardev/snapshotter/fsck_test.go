package snapshotter

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/kata-cc/kata-cc/verity"
)

// TestCheckFindsWhatIsDamaged: a byte is turned over in a layer file; Check says
// which, removes it only when told to, and the layer can be made again.
func TestCheckFindsWhatIsDamaged(t *testing.T) {
	c, root := newContent(t), t.TempDir()
	layers, chains := c.image(t, baseTar(t))
	name := "k8s.io/1/" + chains[0].String()
	labels := map[string]string{labelLayerDigest: layers[0].Digest.String()}
	s := newSnapshotter(t, root, c)
	if err := unpack(t, s, name, "", labels); err != nil {
		t.Fatal(err)
	}
	if _, err := Check(t.Context(), root, false, nil); !errdefs.IsUnavailable(err) {
		t.Errorf("check of a store that is served: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	check(t, root, false)

	path := filepath.Join(root, "layers", LayerName(name))
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(whole)
	bad[5000] ^= 1
	if err = os.WriteFile(path, bad, 0o600); err != nil {
		t.Fatal(err)
	}
	odd := filepath.Join(root, "snapshots", "odd")
	moved := map[bool]string{true: "moved to " + filepath.Join(root, "damaged", "odd")}
	removed := map[bool]string{true: "removed"}
	if err = os.WriteFile(odd, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, repair := range []bool{false, true} {
		got := check(t, root, repair)
		if len(got) != 2 || got[0].Path != odd || got[0].Repaired != moved[repair] || got[1].Path != path || got[1].Snapshot != name ||
			!errors.Is(got[1].Err, verity.ErrMismatch) || got[1].Repaired != removed[repair] {
			t.Errorf("repair %v: %+v", repair, got)
		}
	}
	if data, err := os.ReadFile(filepath.Join(root, "damaged", "odd")); err != nil || string(data) != "{" {
		t.Errorf("unreadable metadata is gone: %q, %v", data, err)
	}
	s = newSnapshotter(t, root, c)
	if _, err = s.Prepare(t.Context(), "k8s.io/2/container", name); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("prepare on a removed layer: %v", err)
	}
	if err = s.Remove(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if err = unpack(t, s, name, "", labels); err != nil {
		t.Fatal(err)
	}
	if again, err := os.ReadFile(path); err != nil || !bytes.Equal(again, whole) {
		t.Errorf("layer file made again differs, error %v", err)
	}
}

func check(t *testing.T, root string, repair bool) (found []Problem) {
	t.Helper()
	files, err := Check(t.Context(), root, repair, func(p Problem) { found = append(found, p) })
	if err != nil || files != 1 {
		t.Errorf("%d files, error %v", files, err)
	}
	return found
}
