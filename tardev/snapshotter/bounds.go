package snapshotter

import (
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Bounds keep a layer file from filling the disk: a small blob may unpack to any
// size. The zero value bounds nothing.
type Bounds struct {
	MaxLayer int64 // bytes that a layer file may have; 0: any
	// What must stay free on the file system of the store: bytes, and hundredths of
	// its size. The larger of the two holds.
	MinFree        int64
	MinFreePercent int
}

// SetBounds bounds the layer files that are made from then on. It is called before
// the Snapshotter is used.
func (s *Snapshotter) SetBounds(b Bounds) { s.bounds = b }

// space tells in bytes what is free for who is not root on the file system of a
// directory, and its size.
type space func(dir string) (free, size uint64, err error)

func hostSpace(dir string) (free, size uint64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return st.Bavail * uint64(st.Frsize), st.Blocks * uint64(st.Frsize), nil
}

// spaceInterval is how many bytes are written between two looks at what is free.
const spaceInterval = 16 << 20

// bounded is a writer that fails before what it has written is out of bounds.
type bounded struct {
	io.Writer
	Bounds
	space   space
	dir     string
	written int64
	next    int64 // when to look at what is free
}

func (s *Snapshotter) bounded(w io.Writer) *bounded {
	return &bounded{Writer: w, Bounds: s.bounds, space: s.space, dir: s.dirs.staging}
}

func (b *bounded) Write(p []byte) (int, error) {
	end := b.written + int64(len(p))
	if b.MaxLayer > 0 && end > b.MaxLayer {
		return 0, fmt.Errorf("its layer file has %d bytes and is not at its end; max_layer_size is %d: %w", end, b.MaxLayer, errdefs.ErrResourceExhausted)
	}
	if end >= b.next && (b.MinFree > 0 || b.MinFreePercent > 0) {
		b.next = end + spaceInterval
		if err := b.checkSpace(end); err != nil {
			return 0, err
		}
	}
	n, err := b.Writer.Write(p)
	b.written += int64(n)
	return n, err
}

func (b *bounded) checkSpace(end int64) error {
	free, size, err := b.space(b.dir)
	if err != nil {
		return err
	}
	keep := max(uint64(b.MinFree), size/100*uint64(b.MinFreePercent))
	if want := keep + uint64(end-b.written); free < want {
		return fmt.Errorf("its layer file has %d bytes and is not at its end; %d bytes are free on the file system of %s, of which min_free keeps %d: %w",
			b.written, free, b.dir, keep, errdefs.ErrResourceExhausted)
	}
	return nil
}
