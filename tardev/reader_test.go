package tardev

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// TestReaderListsManyInAnyPieces lists a directory of 100,000 names with ReadDir,
// looks each up, and sees that the reader keeps nothing of it.
func TestReaderListsManyInAnyPieces(t *testing.T) {
	const count = 100_000
	fsys := open(t, rawTar(many(count)))
	before := heap()
	for _, piece := range []int{-1, 1, 999, count, count + 1} {
		f, err := fsys.Open("d")
		if err != nil {
			t.Fatal(err)
		}
		i := 0
		for {
			list, err := f.(fs.ReadDirFile).ReadDir(piece)
			for _, e := range list {
				if want := fmt.Sprintf("f%06d", i); e.Name() != want {
					t.Fatalf("in pieces of %d: name %d is %s, want %s", piece, i, e.Name(), want)
				}
				i++
			}
			if err == io.EOF || err == nil && piece < 0 {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if i != count {
			t.Errorf("in pieces of %d: %d names", piece, i)
		}
	}
	for i := 0; i < count; i += 7 {
		if _, err := fsys.Lstat(fmt.Sprintf("d/f%06d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if grown := heap() - before; grown > 1<<20 {
		t.Errorf("the reader keeps %d KiB", grown>>10)
	}
	runtime.KeepAlive(fsys)
}

// many is a directory d with so many files, in no order.
func many(count int) []byte {
	blob := dir("d")
	for i := range count {
		blob = append(blob, member0(fmt.Sprintf("d/f%06d", i*7919%count), '0')...)
	}
	return blob
}

// heap returns the bytes of memory that are in use.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestDirectoryThatLeadsUpIsRefused makes the directory a/b the root, and itself.
func TestDirectoryThatLeadsUpIsRefused(t *testing.T) {
	for _, ino := range []uint64{RootIno, 2, 3} {
		layer, file := build(t, rawTar(dir("a"), dir("a/b"), dir("a/b/c")))
		// Entries are a in 1, b in 2, c in 3; c gets another number.
		entry := file[layer.TarSize+4*inodeSize+2*dirEntrySize:]
		if entry[0] != 4 {
			t.Fatalf("entry c has inode %d", entry[0])
		}
		binary.LittleEndian.PutUint64(entry, ino)
		fsys, err := Open(bytes.NewReader(file), layer.DataSize)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fsys.Stat("a/b/c"); !errors.Is(err, ErrCorrupt) {
			t.Errorf("c is inode %d: Stat: %v", ino, err)
		}
		visited := 0
		err = fs.WalkDir(fsys, ".", func(_ string, _ fs.DirEntry, err error) error {
			visited++
			return err
		})
		if !errors.Is(err, ErrCorrupt) || visited > 5 {
			t.Errorf("c is inode %d: WalkDir of %d names: %v", ino, visited, err)
		}
	}
}

func TestReview(t *testing.T) {
	layer, file := build(t, rawTar(dir("d"), reg("d/f", "data"), withData("s", '0', "", withMode("0004755")), reg("no/where", "")))
	fsys, err := Open(bytes.NewReader(file), layer.DataSize)
	if err != nil {
		t.Fatal(err)
	}
	var lost []string
	o := BuildOptions{Lost: func(path, what string) { lost = append(lost, path+": "+what) }}
	want := []string{"s: setuid", "no/where: the whole entry, whose parent is no directory that the tar names"}
	if err := fsys.Review(t.Context(), o); err != nil || !slices.Equal(lost, want) {
		t.Errorf("lost %q, error %v, want %q", lost, err, want)
	}
	for at := layer.TarSize; at < layer.DataSize-superblockSize; at += 7 {
		file[at] ^= 1
		if err := fsys.Review(t.Context(), BuildOptions{}); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), fmt.Sprint(" ", at, " ")) {
			t.Fatalf("byte %d of the index changed: %v", at, err)
		}
		file[at] ^= 1
	}
	file[0] ^= 1
	if err := fsys.Review(t.Context(), BuildOptions{}); !errors.Is(err, ErrTar) {
		t.Errorf("a byte of the tar changed: %v", err)
	}
}
