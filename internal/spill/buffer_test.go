package spill

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// TestReadsBackWhatWasWritten writes pieces of all sizes and reads them from
// every side of the borders between memory, file and what is pending.
func TestReadsBackWhatWasWritten(t *testing.T) {
	for _, keep := range []int{0, 10, 100_000, 1 << 30} {
		dir := t.TempDir()
		b := New(dir, keep)
		r := rand.New(rand.NewPCG(1, uint64(keep)))
		var want []byte
		for _, n := range []int{0, 3, 10, 70_000, 1, 200_000, 50_000, 7} {
			p := make([]byte, n)
			for i := range p {
				p[i] = byte(r.Uint32())
			}
			want = append(want, p...)
			if got, err := b.Write(p); got != n || err != nil {
				t.Fatalf("keep %d: Write: %d, %v", keep, got, err)
			}
		}
		if b.Len() != int64(len(want)) {
			t.Errorf("keep %d: Len %d, want %d", keep, b.Len(), len(want))
		}
		for range 1000 {
			off, n := r.IntN(len(want)+10), r.IntN(100_000)
			p := make([]byte, n)
			got, err := b.ReadAt(p, int64(off))
			from := want[min(off, len(want)):min(off+n, len(want))]
			if !bytes.Equal(p[:got], from) || (err == io.EOF) != (got < n) || err != nil && err != io.EOF {
				t.Fatalf("keep %d: ReadAt(%d, %d): %d bytes, %v", keep, n, off, got, err)
			}
		}
		var out bytes.Buffer
		if n, err := b.WriteTo(&out); err != nil || n != int64(len(want)) || !bytes.Equal(out.Bytes(), want) {
			t.Errorf("keep %d: WriteTo: %d of %d bytes, %v", keep, n, len(want), err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("keep %d: the directory has %v, %v", keep, left, err)
		}
		if err := errors.Join(b.Close(), b.Close()); err != nil || b.Len() != 0 {
			t.Errorf("keep %d: Close: %v, %d bytes left", keep, err, b.Len())
		}
	}
}

func TestNoPlaceForAFile(t *testing.T) {
	b := New(filepath.Join(t.TempDir(), "none"), 4)
	if _, err := b.Write([]byte("four")); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Write([]byte("more")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Write: %v", err)
	}
	if _, err := b.ReadAt(make([]byte, 1), -1); err == nil {
		t.Error("a negative offset is read")
	}
}
