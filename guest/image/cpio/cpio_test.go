package cpio_test

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	reader "github.com/cavaliergopher/cpio"
	"github.com/kata-cc/kata-cc/guest/image/cpio"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var modified = time.Unix(1704067200, 0)

func entries() []cpio.Entry {
	return []cpio.Entry{
		{Path: "bin/busybox", Mode: 0o755, Data: []byte("box")},
		{Path: "bin", Mode: fs.ModeDir | 0o755},
		{Path: "bin/sh", Mode: fs.ModeSymlink | 0o777, Data: []byte("/bin/busybox")},
		{Path: "dev", Mode: fs.ModeDir | 0o755},
		{Path: "dev/console", Mode: fs.ModeDevice | fs.ModeCharDevice | 0o600, Major: 5, Minor: 1},
		{Path: "dev/vda", Mode: fs.ModeDevice | 0o660, Major: 254},
		{Path: "tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
		{Path: "empty", Mode: 0o644},
	}
}

func archive(t *testing.T, entries []cpio.Entry) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := cpio.Write(&b, entries, modified); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestArchive(t *testing.T) {
	got := archive(t, entries())
	const golden = "testdata/archive.golden.cpio"
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("archive differs from %s:\n%q\n%q", golden, got, want)
	}
}

func TestOrderOfEntriesDoesNotMatter(t *testing.T) {
	want := archive(t, entries())
	other := entries()
	slices.Reverse(other)
	if got := archive(t, other); !bytes.Equal(got, want) {
		t.Errorf("archive differs:\n%q\n%q", got, want)
	}
}

func TestAnotherReaderReadsIt(t *testing.T) {
	r := reader.NewReader(bytes.NewReader(archive(t, entries())))
	var names []string
	for i := int64(1); ; i++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
		if h.Inode != i || h.Uid != 0 || h.Guid != 0 || !h.ModTime.Equal(modified) {
			t.Errorf("%s: inode %d, owner %d:%d, time %s", h.Name, h.Inode, h.Uid, h.Guid, h.ModTime)
		}
		if h.Name == "bin/busybox" {
			if data, err := io.ReadAll(r); err != nil || string(data) != "box" {
				t.Errorf("bin/busybox holds %q, %v", data, err)
			}
		}
		if h.Name == "bin/sh" && h.Linkname != "/bin/busybox" {
			t.Errorf("bin/sh leads to %q", h.Linkname)
		}
	}
	if want := "bin bin/busybox bin/sh dev dev/console dev/vda empty tmp"; strings.Join(names, " ") != want {
		t.Errorf("names are %q, want %s", names, want)
	}
}

func TestRefuses(t *testing.T) {
	for name, bad := range map[string][]cpio.Entry{
		"twice":         {{Path: "a"}, {Path: "b"}, {Path: "a"}},
		"absolute":      {{Path: "/a"}},
		"no name":       {{Path: ""}},
		"the trailer":   {{Path: "TRAILER!!!"}},
		"NUL in a name": {{Path: "a\x00b"}},
		"a socket":      {{Path: "a", Mode: fs.ModeSocket}},
	} {
		if err := cpio.Write(io.Discard, bad, modified); err == nil {
			t.Errorf("%s: written", name)
		}
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestErrorOfWriterIsReturned(t *testing.T) {
	for _, size := range []int{0, 1 << 20} {
		err := cpio.Write(full{}, []cpio.Entry{{Path: "a", Data: make([]byte, size)}}, modified)
		if err == nil || !strings.Contains(err.Error(), "disk full") {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}
