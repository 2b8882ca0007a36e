package snapshotter

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// bombTar is a layer that compresses well: one file of zeros.
func bombTar(t *testing.T, mebibytes int) []byte {
	t.Helper()
	return tarOf(t, "zeros", make([]byte, mebibytes<<20))
}

// A blob that unpacks to more than there may be is refused by the differ and by
// Commit alike, names image, blob and both numbers, and leaves nothing.
func TestWhatUnpacksToTooMuch(t *testing.T) {
	const size = 1 << 30 // of the file system
	gone := errors.New("gone")
	for name, test := range map[string]struct {
		bounds Bounds
		free   []uint64 // at each look, and from then on
		err    error    // of the look
		says   []string // nothing: it is made
	}{
		"none":               {},
		"within":             {bounds: Bounds{MaxLayer: 64 << 20, MinFree: 1 << 20, MinFreePercent: 5}, free: []uint64{900 << 20, 880 << 20, 860 << 20, 840 << 20}},
		"larger than may be": {bounds: Bounds{MaxLayer: 10 << 20}, says: []string{"max_layer_size is 10485760"}},
		"index beside it":    {bounds: Bounds{MaxLayer: 20<<20 + 2048}, says: []string{"max_layer_size is 20973568"}},
		"disk fills":         {bounds: Bounds{MinFree: 100 << 20}, free: []uint64{120 << 20, 100 << 20}, says: []string{"104857600 bytes are free", "min_free keeps 104857600"}},
		"disk is full":       {bounds: Bounds{MinFreePercent: 5}, free: []uint64{size / 20}, says: []string{"has 0 bytes", "53687091 bytes are free", "min_free keeps 53687090"}},
		"larger of the two":  {bounds: Bounds{MinFreePercent: 50, MinFree: 10}, free: []uint64{size / 3}, says: []string{"min_free keeps 536870900"}},
		"unknown":            {bounds: Bounds{MinFree: 1}, err: gone, says: []string{"gone"}},
	} {
		for _, way := range []string{"Apply", "Commit"} {
			t.Run(name+"/"+way, func(t *testing.T) {
				c, root := newContent(t), t.TempDir()
				bomb := bombTar(t, 20)
				layers, chains := c.image(t, bomb)
				s := newSnapshotter(t, root, c)
				s.SetBounds(test.bounds)
				looks := slices.Clone(test.free)
				s.space = func(string) (uint64, uint64, error) {
					free := looks[0]
					if len(looks) > 1 {
						looks = looks[1:]
					}
					return free, size, nil
				}
				if test.err != nil {
					s.space = func(string) (uint64, uint64, error) { return 0, 0, test.err }
				}
				before := files(t, root)
				name := "k8s.io/1/" + chains[0].String()
				labels := map[string]string{labelLayerDigest: layers[0].Digest.String()}
				var err error
				if way == "Commit" {
					err = unpack(t, s, name, "", labels)
				} else {
					e := extract(t, s, name, "")
					_, err = e.apply(layers[0])
					if rerr := s.Remove(e.ctx, e.key()); rerr != nil {
						t.Error(rerr)
					}
				}
				if test.says == nil {
					if err != nil {
						t.Error(err)
					}
					return
				}
				says := append(slices.Clone(test.says), layers[0].Digest.String())
				if test.err == nil {
					says = append(says, "of image example.com/image:0")
				}
				for _, want := range says {
					if err == nil || !strings.Contains(err.Error(), want) {
						t.Errorf("error %v; want one that says %q", err, want)
					}
				}
				if test.err == nil && !errdefs.IsResourceExhausted(err) {
					t.Errorf("%v is not of the class of a full disk", err)
				}
				if after := files(t, root); !slices.Equal(before, after) {
					t.Errorf("files were %v, are %v", before, after)
				}
			})
		}
	}
}

// What was refused is made once the bounds, or the disk, allow it.
func TestLayerAfterARefusal(t *testing.T) {
	c := newContent(t)
	layers, chains := c.image(t, bombTar(t, 2))
	s := newSnapshotter(t, t.TempDir(), c)
	s.SetBounds(Bounds{MaxLayer: 1 << 20})
	name, labels := fmt.Sprintf("k8s.io/1/%s", chains[0]), map[string]string{labelLayerDigest: layers[0].Digest.String()}
	if err := unpack(t, s, name, "", labels); !errdefs.IsResourceExhausted(err) {
		t.Fatalf("error %v, want a full disk's", err)
	}
	s.SetBounds(Bounds{MaxLayer: 3 << 20, MinFree: 1})
	if err := unpack(t, s, name, "", labels); err != nil {
		t.Fatal(err)
	}
}

func TestBoundedCountsWhatWasWritten(t *testing.T) {
	var out bytes.Buffer
	s := &Snapshotter{bounds: Bounds{MaxLayer: 10}, space: hostSpace}
	w := s.bounded(&out)
	for _, step := range []struct {
		n  int
		ok bool
	}{{4, true}, {6, true}, {1, false}, {0, true}} {
		if _, err := w.Write(make([]byte, step.n)); (err == nil) != step.ok {
			t.Errorf("%d bytes after %d: %v", step.n, out.Len(), err)
		}
	}
	if out.Len() != 10 || digest.FromBytes(out.Bytes()) != digest.FromBytes(make([]byte, 10)) {
		t.Errorf("%d bytes were written", out.Len())
	}
}
