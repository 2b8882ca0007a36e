package tardev

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"testing"
	"time"
)

// goldenTar is the second layer of docker.io/burgerdev/example-container:1: one
// empty file LAYER_2.
func goldenTar() []byte {
	mtime := time.Date(2024, 6, 26, 13, 53, 15, 0, time.UTC)
	return rawTar(member0("LAYER_2", '0', func(h *header) {
		copy(h[136:], fmt.Sprintf("%011o\x00", mtime.Unix()))
	}))
}

func TestGoldenVector(t *testing.T) {
	layer, file := build(t, goldenTar())
	if want := "sha256:ed328a6cc2d48369c6c566dd144f55455c40934abe2a7ec4395dd08af7402df7"; layer.DiffID != want {
		t.Errorf("diff id %s, want %s", layer.DiffID, want)
	}
	if want := "3e180656327e86fa7aa220ff278695f1df2a2679e1aa80e8a454ccf0460c7d39"; layer.RootHash != want {
		t.Errorf("root hash %s, want %s", layer.RootHash, want)
	}
	if layer.DataSize != 8192 || layer.TarSize != 1536 || layer.Inodes != 2 || layer.Size != 16384 || int64(len(file)) != layer.Size {
		t.Errorf("layer %+v of %d bytes", layer, len(file))
	}
	if !bytes.HasPrefix(file, goldenTar()) {
		t.Error("the layer file does not begin with the tar")
	}
}

// TestGoldenTarIsTheOneOfTheImage guards the vector itself.
func TestGoldenTarIsTheOneOfTheImage(t *testing.T) {
	if got := fmt.Sprintf("%x", sha256.Sum256(goldenTar())); got != "ed328a6cc2d48369c6c566dd144f55455c40934abe2a7ec4395dd08af7402df7" {
		t.Errorf("SHA-256 %s", got)
	}
}
