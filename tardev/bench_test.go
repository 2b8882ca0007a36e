package tardev

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// benchTar is a tar of some 128 MiB that compresses like a layer of programs: to
// about a third. Its files are few or, with small, many.
func benchTar(b *testing.B, small bool) []byte {
	b.Helper()
	const total = 128 << 20
	size := 4 << 20
	if small {
		size = 16 << 10
	}
	r := rand.New(rand.NewPCG(1, 2))
	var words [4096][]byte
	for i := range words {
		words[i] = make([]byte, 3+r.IntN(12))
		for j := range words[i] {
			words[i][j] = byte(r.Uint32())
		}
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	data := make([]byte, 0, size)
	for i := 0; out.Len() < total; i++ {
		for data = data[:0]; len(data) < size; {
			data = append(data, words[r.IntN(1+r.IntN(len(words)))]...)
		}
		data = data[:size]
		if i%100 == 0 {
			if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("d%d/", i/100), Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
				b.Fatal(err)
			}
		}
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("d%d/f%d", i/100, i), Size: int64(size), Mode: 0o644}); err != nil {
			b.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	return out.Bytes()
}

// BenchmarkBuild converts a layer to a file, in MB of tar a second. Its baseline is
// what a shell does for the diff id alone: gzip -dc | sha256sum. For a gzip layer
// the two take turns, and x-baseline is how many times as fast Build is.
func BenchmarkBuild(b *testing.B) {
	for name, small := range map[string]bool{"large files": false, "small files": true} {
		b.Run(name, func(b *testing.B) { benchmarkBuild(b, benchTar(b, small)) })
	}
}

func benchmarkBuild(b *testing.B, blob []byte) {
	gz := zip(blob)
	path := filepath.Join(b.TempDir(), "layer.gz")
	if err := os.WriteFile(path, gz, 0o600); err != nil {
		b.Fatal(err)
	}
	baseline := func(b *testing.B) {
		if out, err := exec.CommandContext(b.Context(), "sh", "-c", `gzip -dc "$0" | sha256sum`, path).CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
	}
	convert := func(b *testing.B, blob []byte, f *os.File) {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			b.Fatal(err)
		}
		if _, err := Build(b.Context(), f, bytes.NewReader(blob), BuildOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("baseline", func(b *testing.B) {
		b.SetBytes(int64(len(blob)))
		for b.Loop() {
			baseline(b)
		}
	})
	for _, c := range []struct {
		name string
		blob []byte
	}{{"gzip", gz}, {"zstd", zst(blob)}, {"plain", blob}} {
		b.Run(c.name, func(b *testing.B) {
			f, err := os.Create(filepath.Join(b.TempDir(), "layer"))
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			b.SetBytes(int64(len(blob)))
			var ours, theirs time.Duration
			for b.Loop() {
				start := time.Now()
				convert(b, c.blob, f)
				ours += time.Since(start)
				if c.name == "gzip" {
					b.StopTimer()
					start = time.Now()
					baseline(b)
					theirs += time.Since(start)
					b.StartTimer()
				}
			}
			if theirs > 0 {
				b.ReportMetric(theirs.Seconds()/ours.Seconds(), "x-baseline")
			}
		})
	}
}

// BenchmarkLookup finds one of 100,000 names of a directory.
func BenchmarkLookup(b *testing.B) {
	var blob []byte
	for i := range 100_000 {
		blob = append(blob, member0(fmt.Sprintf("f%06d", i), '0')...)
	}
	fsys := open(b, append(blob, make([]byte, 1024)...))
	root, err := fsys.Inode(RootIno)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := fsys.Lookup(root, "f054321"); err != nil {
			b.Fatal(err)
		}
	}
}
