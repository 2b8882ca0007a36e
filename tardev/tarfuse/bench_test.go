package tarfuse

import (
	"archive/tar"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/tardev"
	"github.com/kata-cc/kata-cc/verity"
)

// benchFile mounts a layer file with one file of 256 MiB and opens that.
func benchFile(b *testing.B, verified bool) *os.File {
	b.Helper()
	needMount(b)
	data, l := layer(b, tar.Header{Name: "file", Linkname: strings.Repeat("x", 256<<20)})
	path := filepath.Join(b.TempDir(), "layer")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		b.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = file.Close() })
	var r io.ReaderAt = file
	if verified {
		if r, err = verity.NewReader(file, l.Size, l.RootHash); err != nil {
			b.Fatal(err)
		}
	}
	fsys, err := tardev.Open(r, l.DataSize)
	if err != nil {
		b.Fatal(err)
	}
	f, err := os.Open(filepath.Join(mount(b, fsys, Options{}), "file"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = f.Close() })
	return f
}

// dropCache makes the kernel forget what it has of the file.
func dropCache(b *testing.B, f *os.File) {
	b.Helper()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		b.Fatal(err)
	}
}

func BenchmarkSequentialRead(b *testing.B) {
	for name, verified := range map[string]bool{"plain": false, "verified": true} {
		b.Run(name, func(b *testing.B) {
			f := benchFile(b, verified)
			buf := make([]byte, 1<<20)
			b.SetBytes(256 << 20)
			for b.Loop() {
				dropCache(b, f)
				if _, err := f.Seek(0, io.SeekStart); err != nil {
					b.Fatal(err)
				}
				for {
					_, err := f.Read(buf)
					if err == io.EOF {
						break
					}
					if err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

func BenchmarkRandomRead4K(b *testing.B) {
	f := benchFile(b, false)
	r := rand.New(rand.NewPCG(1, 2))
	buf := make([]byte, 4096)
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM); err != nil {
		b.Fatal(err)
	}
	dropCache(b, f)
	b.SetBytes(4096)
	for n := 0; b.Loop(); n++ {
		if n%(32<<10) == 0 {
			dropCache(b, f)
		}
		if _, err := f.ReadAt(buf, r.Int64N(256<<20-4096)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkList100000 lists a directory of 100,000 names through FUSE, with what
// ls -l asks of each.
func BenchmarkList100000(b *testing.B) {
	members := []tar.Header{{Name: "d", Typeflag: tar.TypeDir}}
	for i := range 100_000 {
		members = append(members, tar.Header{Name: fmt.Sprintf("d/file-%06d", i)})
	}
	fsys := open(b, members...)
	members = nil
	for b.Loop() {
		b.StopTimer()
		needMount(b)
		dir := b.TempDir()
		s, err := Mount(fsys, dir, Options{}) // each time anew: the kernel keeps what it has seen
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		list, err := os.ReadDir(dir + "/d")
		if err != nil || len(list) != 100_000 {
			b.Fatalf("%d names, error %v", len(list), err)
		}
		for _, e := range list {
			if _, err := e.Info(); err != nil {
				b.Fatal(err)
			}
		}
		b.StopTimer()
		unmount(b, s)
		b.StartTimer()
	}
}
