package tardev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/kata-cc/kata-cc/verity"
)

// member0 returns a USTAR header block and what edit does to it, checksum last,
// followed by data of the size that the header says.
func member0(name string, typeflag byte, edits ...func(*header)) []byte {
	var h header
	copy(h[0:100], name)
	copy(h[100:], "0000644\x000000000\x000000000\x0000000000000\x0000000000000\x00")
	h[156] = typeflag
	copy(h[257:], "ustar\x0000")
	copy(h[329:], "0000000\x000000000\x00")
	for _, edit := range edits {
		edit(&h)
	}
	sum := 8 * int(' ')
	for i, b := range h {
		if i < 148 || i >= 156 {
			sum += int(b)
		}
	}
	copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return h[:]
}

func withMode(mode string) func(*header) { return func(h *header) { copy(h[100:108], mode) } }
func withLink(to string) func(*header)   { return func(h *header) { copy(h[157:257], to) } }
func withSize(n int) func(*header) {
	return func(h *header) { copy(h[124:136], fmt.Sprintf("%011o\x00", n)) }
}

// withData is a member with contents.
func withData(name string, typeflag byte, data string, edits ...func(*header)) []byte {
	b := member0(name, typeflag, append([]func(*header){withSize(len(data))}, edits...)...)
	return pad(append(b, data...))
}

func pad(b []byte) []byte { return append(b, make([]byte, -len(b)&(tarBlock-1))...) }

func pax(records ...string) []byte {
	var text string
	for _, r := range records {
		n := len(r) + 3
		for len(fmt.Sprintf("%d %s\n", n, r)) != n {
			n++
		}
		text += fmt.Sprintf("%d %s\n", n, r)
	}
	return withData("pax", 'x', text)
}

// rawTar ends members with the two blocks of zeros.
func rawTar(members ...[]byte) []byte {
	return append(slices.Concat(members...), make([]byte, 2*tarBlock)...)
}

func build(t testing.TB, blob []byte) (Layer, []byte) {
	t.Helper()
	var file bytes.Buffer
	layer, err := Build(t.Context(), &file, bytes.NewReader(blob), BuildOptions{})
	if err != nil {
		t.Fatalf("Build: %v", err)
	}
	return layer, file.Bytes()
}

// open builds a layer and opens it as a guest would.
func open(t testing.TB, blob []byte) *FS {
	t.Helper()
	layer, file := build(t, blob)
	sb, err := verity.ReadSuperblock(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	if err = verity.Verify(t.Context(), bytes.NewReader(file), int64(len(file)), layer.RootHash); err != nil {
		t.Fatal(err)
	}
	fsys, err := Open(io.NewSectionReader(bytes.NewReader(file), 0, sb.DataSize()), sb.DataSize())
	if err != nil {
		t.Fatal(err)
	}
	return fsys
}

// list returns one line for each name below the root: path, mode, size, and where
// a symbolic link leads.
func list(t testing.TB, fsys *FS) []string {
	t.Helper()
	var lines []string
	var visit func(dir string, n Inode)
	visit = func(dir string, n Inode) {
		for e, err := range fsys.Entries(n, 0) {
			if err != nil {
				t.Fatal(err)
			}
			c, err := fsys.Inode(e.Ino)
			if err != nil {
				t.Fatal(err)
			}
			line := fmt.Sprintf("%s%s %o", dir, e.Name, c.Mode)
			switch {
			case c.IsRegular():
				data, err := io.ReadAll(io.NewSectionReader(readerOf{fsys, c}, 0, int64(c.Size)))
				if err != nil {
					t.Fatal(err)
				}
				line += fmt.Sprintf(" %.20q", data)
			case c.IsSymlink():
				target, err := fsys.Readlink(c)
				if err != nil {
					t.Fatal(err)
				}
				line += " -> " + target
			case c.IsDevice():
				major, minor := c.Device()
				line += fmt.Sprintf(" %d:%d", major, minor)
			case c.Opaque:
				line += " opaque"
			}
			if c.Opaque && c.IsDir() && !strings.HasSuffix(line, "opaque") {
				line += " opaque"
			}
			lines = append(lines, line)
			if c.IsDir() {
				visit(dir+e.Name+"/", c)
			}
		}
	}
	root, err := fsys.Inode(RootIno)
	if err != nil {
		t.Fatal(err)
	}
	if root.Opaque {
		lines = append(lines, "/ opaque")
	}
	visit("", root)
	return lines
}

type readerOf struct {
	fs *FS
	n  Inode
}

func (r readerOf) ReadAt(p []byte, off int64) (int, error) { return r.fs.ReadAt(r.n, p, off) }

func wantList(t testing.TB, fsys *FS, want ...string) {
	t.Helper()
	if got := list(t, fsys); !slices.Equal(got, want) {
		t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func TestCompressionsGiveTheSameLayer(t *testing.T) {
	tar := rawTar(withData("a", '0', strings.Repeat("text ", 1<<19)), withData("b", '0', "b"))
	want, _ := build(t, tar)
	gz := func(p []byte) []byte {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, _ = w.Write(p)
		_ = w.Close()
		return b.Bytes()
	}
	zs := func(p []byte) []byte {
		w, _ := zstd.NewWriter(nil)
		return w.EncodeAll(p, nil)
	}
	skippable := []byte{0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3}
	for name, blob := range map[string][]byte{
		"gzip":             gz(tar),
		"gzip two members": append(gz(tar[:1000]), gz(tar[1000:])...),
		"zstd":             zs(tar),
		"zstd two frames":  append(append(skippable, zs(tar[:1000])...), zs(tar[1000:])...),
	} {
		t.Run(name, func(t *testing.T) {
			if got, _ := build(t, blob); got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
	t.Run("truncated gzip", func(t *testing.T) {
		blob := gz(tar)
		_, err := Build(t.Context(), io.Discard, bytes.NewReader(blob[:len(blob)/2]), BuildOptions{})
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("error %v", err)
		}
	})
}

func TestEmptyBlobIsAnEmptyLayer(t *testing.T) {
	wantList(t, open(t, nil))
	wantList(t, open(t, rawTar()))
}

func TestBadTarIsRefused(t *testing.T) {
	whole := rawTar(withData("file", '0', "contents"))
	for name, tar := range map[string][]byte{
		"checksum":             append([]byte("X"), whole[1:]...),
		"within a header":      whole[:100],
		"within data":          whole[:515],
		"within padding":       whole[:1000],
		"no text":              bytes.Repeat([]byte("no tar "), 100),
		"dangling long name":   rawTar(withData("l", 'L', "long\x00")),
		"two long names":       rawTar(withData("l", 'L', "long\x00"), withData("l", 'L', "long\x00"), member0("f", '0')),
		"size not a number":    rawTar(member0("f", '0', func(h *header) { copy(h[124:], "what") })),
		"size beyond any tar":  rawTar(member0("f", '0', func(h *header) { copy(h[124:], "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff") })),
		"huge extended header": rawTar(member0("f", 'x', withSize(maxDescription+1))),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Build(t.Context(), io.Discard, bytes.NewReader(tar), BuildOptions{}); !errors.Is(err, ErrTar) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// TestNamesBeyondMemory has so many long names that most are in a file, and
// directories whose order only their last bytes decide.
func TestNamesBeyondMemory(t *testing.T) {
	stem := strings.Repeat("n", 2*nameWindow)
	members := [][]byte{member0("d", '5')}
	var want []string
	for i := range 2 * keepNames / len(stem) {
		name := fmt.Sprintf("%s%04d", stem, 7919*i%10_000)
		members = append(members, withData("L", 'L', "d/"+name+"\x00"), withData("short", '0', fmt.Sprint(i)))
		want = append(want, fmt.Sprintf("d/%s 100644 %q", name, fmt.Sprint(i)))
	}
	// The first of them again, found by a name that is in the file.
	members = append(members, withData("L", 'L', fmt.Sprintf("d/%s%04d\x00", stem, 0)), withData("short", '0', "again"))
	want[0] = fmt.Sprintf("d/%s0000 100644 %q", stem, "again")
	slices.Sort(want)
	dir := t.TempDir()
	var file bytes.Buffer
	layer, err := Build(t.Context(), &file, bytes.NewReader(rawTar(members...)), BuildOptions{TempDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	fsys, err := Open(bytes.NewReader(file.Bytes()), layer.DataSize)
	if err != nil {
		t.Fatal(err)
	}
	wantList(t, fsys, append([]string{"d 40644"}, want...)...)
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
	_, err = Build(t.Context(), io.Discard, bytes.NewReader(rawTar(members...)), BuildOptions{TempDir: filepath.Join(dir, "none")})
	if !errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrTar) {
		t.Errorf("without a place for temporary files: %v", err)
	}
}

func TestTooManyFilesAreRefused(t *testing.T) {
	x := newIndex("", func(string, string) {})
	x.limit = 100 // nodes, the root included
	s := &scanner{found: x.add}
	path := strings.Repeat("d/", 60)
	if _, err := s.Write(withData("L", 'L', path)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write(member0("short", '5')); err != nil {
		t.Fatal(err)
	}
	_, err := s.Write(slices.Concat(withData("L", 'L', "e/"+path), member0("short", '5')))
	if !errors.Is(err, errTooMany) || !strings.Contains(err.Error(), `member "e/d/d`) {
		t.Errorf("error %v", err)
	}
}

type failingWriter struct{ left int }

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, fs.ErrPermission
	}
	return len(p), nil
}

func TestBuildReportsWhatFailed(t *testing.T) {
	tar := rawTar(withData("a", '0', strings.Repeat("x", 20<<20)))
	for _, room := range []int{0, 1 << 20, 12 << 20, len(tar), len(tar) + 8192} {
		_, err := Build(t.Context(), &failingWriter{room}, bytes.NewReader(tar), BuildOptions{})
		if !errors.Is(err, fs.ErrPermission) {
			t.Errorf("room for %d bytes: error %v", room, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Build(ctx, io.Discard, bytes.NewReader(tar), BuildOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: error %v", err)
	}
}
