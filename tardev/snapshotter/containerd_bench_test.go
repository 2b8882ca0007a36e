package snapshotter

import (
	"archive/tar"
	"bytes"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
)

// BenchmarkImport has containerd import an image of one layer, 128 MiB in 4000
// files, which compress by half: with the differ, and with an unpack into the
// scratch directory.
func BenchmarkImport(b *testing.B) {
	layer := benchTar(b)
	for _, differ := range []bool{true, false} {
		b.Run(fmt.Sprintf("differ=%v", differ), func(b *testing.B) {
			n := startNode(b, differ)
			ref := "example.com/bench:1"
			n.archive(ref, [][]byte{layer})
			b.SetBytes(int64(len(layer)))
			for b.Loop() {
				n.ctr("images", "import", "--snapshotter", "tardev", filepath.Join(n.dir, "image.tar"))
				b.StopTimer()
				n.ctr("images", "rm", "--sync", ref)
				b.StartTimer()
			}
		})
	}
}

// benchTar makes a layer of 128 MiB in 4000 files, which compresses by half.
func benchTar(b *testing.B) []byte {
	b.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	random := rand.NewChaCha8([32]byte{1})
	data := make([]byte, 32<<10)
	_, _ = random.Read(data[:len(data)/2])
	for i := range 4000 {
		_, _ = random.Read(data[:64])
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("d%d/f%d", i%100, i), Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg}); err != nil {
			b.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	return layer.Bytes()
}
