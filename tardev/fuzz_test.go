package tardev

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
)

// FuzzBuild takes any bytes as a blob: what becomes a layer is one that verifies,
// opens and reads to the end, and begins with the tar.
func FuzzBuild(f *testing.F) {
	f.Add(goldenTar())
	f.Add(rawTar(pax("path=p", "size=2"), pad(append(member0("x", '0'), "ab"...)), withData("l", 'L', "long\x00"), member0("y", '1', withLink("p"))))
	f.Add(rawTar(member0("d/.wh..wh..opq", '0'), member0("d", '5'), member0("d/.wh.x", '0'), pax("linkpath=there"), member0("l", '2')))
	f.Fuzz(func(t *testing.T, blob []byte) {
		var file bytes.Buffer
		layer, err := Build(t.Context(), &file, bytes.NewReader(blob), BuildOptions{})
		if err != nil {
			return
		}
		if sum := fmt.Sprintf("sha256:%x", sha256.Sum256(file.Bytes()[:layer.TarSize])); sum != layer.DiffID {
			t.Errorf("diff id %s, SHA-256 %s", layer.DiffID, sum)
		}
		fsys, err := Open(bytes.NewReader(file.Bytes()), layer.DataSize)
		if err != nil {
			t.Fatal(err)
		}
		list(t, fsys) // fails the test on any error
	})
}

// FuzzOpen takes any bytes as an index. A reader returns errors, in bounded time.
func FuzzOpen(f *testing.F) {
	_, file := build(f, rawTar(member0("d", '5'), withData("d/f", '0', "data"), member0("l", '2', withLink("d/f"))))
	f.Add(file[:8192], uint64(1536), uint64(4))
	f.Fuzz(func(t *testing.T, data []byte, table, inodes uint64) {
		data = append(data, make([]byte, -len(data)&(blockSize-1))...)
		if len(data) >= superblockSize {
			copy(data[len(data)-superblockSize:], binaryPair(table, inodes))
		}
		fsys, err := Open(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		budget := 1000
		_ = fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
			if budget--; budget == 0 {
				return fs.SkipAll
			}
			if err != nil {
				return fs.SkipDir
			}
			if !fs.ValidPath(path) {
				t.Errorf("path %q", path)
			}
			if d.Type().IsRegular() {
				if r, err := fsys.Open(path); err == nil {
					n, err := io.Copy(io.Discard, io.LimitReader(r, 1<<20))
					if n > int64(len(data)) {
						t.Errorf("%s has %d bytes, the layer %d; error %v", path, n, len(data), err)
					}
				}
			}
			_, _ = fsys.ReadLink(path)
			return nil
		})
	})
}

func binaryPair(a, b uint64) []byte {
	var out []byte
	for _, v := range []uint64{a, b} {
		for i := range 8 {
			out = append(out, byte(v>>(8*i)))
		}
	}
	return out
}

// FuzzRoundTrip makes a tar of what the format can hold, by Go's tar writer, and
// reads the same back through index and reader. Each two bytes are one step: what
// happens and to which path.
func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte{0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5})
	f.Add([]byte{1, 0, 0, 9, 0, 10, 5, 0, 1, 0, 0, 9, 4, 17, 6, 0, 2, 40})
	f.Fuzz(func(t *testing.T, steps []byte) {
		var blob bytes.Buffer
		w := tar.NewWriter(&blob)
		m := model{}
		for len(steps) >= 2 && len(m) < 200 {
			m.step(t, w, steps[0], steps[1])
			steps = steps[2:]
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		got := list(t, open(t, blob.Bytes()))
		slices.Sort(got)
		if want := slices.Sorted(maps.Values(m)); !slices.Equal(got, want) {
			t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
		}
	})
}

// model is what a layer should hold: path to the line that list makes of it.
type model map[string]string

// long makes names too long for a header.
var long = strings.Repeat("long", 40)

// path makes one of 64 paths up to three deep.
func (model) path(b byte) string {
	names := []string{"a", "b", "é\xff", long}
	p := names[b&3]
	if b>>2&3 != 0 {
		p += "/" + names[b>>2&3]
		if b>>4&3 != 0 {
			p += "/" + names[b>>4&3]
		}
	}
	return p
}

func (m model) isDir(path string) bool { return strings.HasPrefix(m[path], path+" 40") }

// step adds one member to tar and model. A member whose parent is no directory
// is left out: what becomes of those is a quirk with its own test.
func (m model) step(t *testing.T, w *tar.Writer, what, where byte) {
	path := m.path(where)
	if i := strings.LastIndexByte(path, '/'); i >= 0 && !m.isDir(path[:i]) {
		return
	}
	h := tar.Header{Name: path, Mode: int64(what) * 3 % 0o777, Format: tar.FormatPAX}
	if what&0x80 != 0 {
		h.Format = tar.FormatGNU
	}
	var data, line string
	switch what % 6 {
	case 0, 5:
		h.Typeflag, data = tar.TypeReg, strings.Repeat("data", int(what))
		h.Size = int64(len(data))
		line = fmt.Sprintf("%s %o %.20q", path, modeRegular|h.Mode, data)
	case 1:
		h.Typeflag = tar.TypeDir
		line = fmt.Sprintf("%s %o", path, modeDir|h.Mode)
	case 2:
		h.Typeflag, h.Linkname = tar.TypeSymlink, "../target"
		line = fmt.Sprintf("%s %o -> ../target", path, modeSymlink|h.Mode)
	case 3:
		h.Typeflag, h.Linkname = tar.TypeLink, m.path(what/6)
		target := m[h.Linkname]
		rest, ok := strings.CutPrefix(target, h.Linkname+" 100")
		if !ok {
			return // no regular file
		}
		line = path + " 100" + rest
	case 4:
		h.Typeflag, h.Devmajor, h.Devminor = tar.TypeChar, int64(what), int64(where)
		line = fmt.Sprintf("%s %o %d:%d", path, modeChar|h.Mode, h.Devmajor, h.Devminor)
	}
	if err := w.WriteHeader(&h); err != nil {
		t.Skip(err)
	}
	if _, err := io.WriteString(w, data); err != nil {
		t.Fatal(err)
	}
	if !(h.Typeflag == tar.TypeLink && h.Linkname == path) {
		maps.DeleteFunc(m, func(p, _ string) bool { return strings.HasPrefix(p, path+"/") })
	}
	m[path] = line
}
