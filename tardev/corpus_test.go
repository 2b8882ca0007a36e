package tardev

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/kata-cc/kata-cc/verity"
)

var update = flag.Bool("update", false, "rewrite the golden file")

// nasty is one tar, or blob, that somebody may hand us.
type nasty struct {
	name string
	blob []byte
}

const corpusFile = "testdata/corpus.golden"

// TestCorpus converts every nasty tar and compares with the golden file what comes
// of it: an error that names the member and the cause, or what the layer has, read
// back through tree and reader, and what was lost.
func TestCorpus(t *testing.T) {
	golden := map[string]string{}
	text, err := os.ReadFile(corpusFile)
	if err != nil && !*update {
		t.Fatal(err)
	}
	for part := range strings.SplitSeq("\n"+string(text), "\n== ") {
		name, outcome, _ := strings.Cut(part, "\n")
		golden[name] = strings.TrimSuffix(outcome, "\n")
	}
	var all strings.Builder
	seen := map[string]bool{}
	for _, n := range corpus() {
		if seen[n.name] {
			t.Fatalf("two tars are named %q", n.name)
		}
		seen[n.name] = true
		t.Run(n.name, func(t *testing.T) {
			got := outcome(t, n.blob)
			fmt.Fprintf(&all, "== %s\n%s", n.name, got)
			if !*update && strings.TrimSuffix(got, "\n") != golden[n.name] {
				t.Errorf("got\n%swant\n%s", got, golden[n.name])
			}
		})
	}
	if *update {
		if err := os.WriteFile(corpusFile, []byte(all.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// outcome converts a blob and tells what comes of it.
func outcome(t *testing.T, blob []byte) string {
	t.Helper()
	var out strings.Builder
	var file bytes.Buffer
	line := func(format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		if len(text) > 160 {
			text = fmt.Sprintf("%s… %d bytes …%s", text[:70], len(text), text[len(text)-70:])
		}
		fmt.Fprintln(&out, strings.ToValidUTF8(text, "\ufffd"))
	}
	layer, err := Build(t.Context(), &file, bytes.NewReader(blob), BuildOptions{Lost: func(path, what string) { line("lost of %q: %s", path, what) }})
	if err != nil {
		line("error: %v", err)
		if !errors.Is(err, ErrTar) && !errors.Is(err, ErrBlob) {
			t.Errorf("error %v is neither ErrTar nor ErrBlob", err)
		}
		return out.String()
	}
	data, err := verity.NewReader(bytes.NewReader(file.Bytes()), layer.Size, layer.RootHash)
	if err != nil {
		t.Fatal(err)
	}
	fsys, err := Open(data, data.Size())
	if err != nil {
		t.Fatal(err)
	}
	inodes := map[uint64]string{}
	var visit func(path string, n Inode)
	visit = func(path string, n Inode) {
		for e, err := range fsys.Entries(n, 0) {
			if err != nil {
				t.Fatal(err)
			}
			c, err := fsys.Inode(e.Ino)
			if err != nil {
				t.Fatal(err)
			}
			p := path + e.Name
			if first, ok := inodes[c.Ino]; ok {
				line("%q is %q", p, first)
				continue
			}
			inodes[c.Ino] = p
			line("%s", describe(t, fsys, p, c))
			if c.IsDir() {
				visit(p+"/", c)
			}
		}
	}
	root, err := fsys.Inode(RootIno)
	if err != nil {
		t.Fatal(err)
	}
	line("%s", describe(t, fsys, "/", root))
	visit("", root)
	return out.String()
}

// describe is a file in one line.
func describe(t *testing.T, fsys *FS, path string, n Inode) string {
	t.Helper()
	text := fmt.Sprintf("%q %06o", path, n.Mode)
	if n.UID != 0 || n.GID != 0 {
		text += fmt.Sprintf(" %d:%d", n.UID, n.GID)
	}
	if n.Mtime != 0 {
		text += fmt.Sprintf(" @%d", n.Mtime)
	}
	switch {
	case n.IsRegular():
		data, err := io.ReadAll(io.NewSectionReader(readerOf{fsys, n}, 0, int64(n.Size)))
		if err != nil {
			t.Fatal(err)
		}
		text += fmt.Sprintf(" %q", data)
	case n.IsSymlink():
		target, err := fsys.Readlink(n)
		if err != nil {
			t.Fatal(err)
		}
		text += fmt.Sprintf(" -> %q", target)
	case n.IsDevice():
		major, minor := n.Device()
		text += fmt.Sprintf(" %d:%d", major, minor)
	}
	if n.Opaque {
		text += " opaque"
	}
	return text
}

func zip(p []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(p)
	_ = w.Close()
	return b.Bytes()
}

func zst(p []byte) []byte {
	w, _ := zstd.NewWriter(nil, zstd.WithEncoderCRC(true))
	return w.EncodeAll(p, nil)
}

// flipped is a copy with one bit changed, counted from the end if at is negative.
func flipped(p []byte, at int) []byte {
	p = bytes.Clone(p)
	p[(at+len(p))%len(p)] ^= 1
	return p
}

func corpus() []nasty {
	return slices.Concat(hardLinkTars(), whiteoutTars(), nameTars(), extendedTars(), typeTars(),
		duplicateTars(), pathTars(), sparseTars(), truncatedTars(), brokenTars(), compressedBlobs())
}
