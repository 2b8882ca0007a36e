// Package spill keeps bytes that may become too many for memory.
package spill

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// pendingSize is how many bytes are gathered before they go to the file.
const pendingSize = 64 << 10

// Buffer is a sequence of bytes that grows at its end. The first of them stay in
// memory; the others go to a file without a name, which is gone when the Buffer is
// closed or the process ends. A Buffer is not safe for concurrent use.
type Buffer struct {
	dir  string
	keep int // bytes that stay in memory

	mem     []byte
	file    *os.File // nil as long as memory does
	written int64    // bytes in file
	pending []byte   // not yet in file
}

// New returns an empty Buffer that keeps so many bytes in memory and the rest in a
// file in a directory, that of [os.TempDir] if it is "".
func New(dir string, keep int) *Buffer {
	return &Buffer{dir: dir, keep: keep}
}

// Len returns the number of bytes.
func (b *Buffer) Len() int64 {
	return int64(len(b.mem)) + b.written + int64(len(b.pending))
}

// Write appends p.
func (b *Buffer) Write(p []byte) (int, error) {
	n := len(p)
	if b.file == nil {
		if len(b.mem)+len(p) <= b.keep {
			b.mem = append(b.mem, p...)
			return n, nil
		}
		if err := b.open(); err != nil {
			return 0, err
		}
		room := b.keep - len(b.mem)
		b.mem = append(b.mem, p[:room]...)
		p = p[room:]
	}
	for len(p) > 0 {
		took := min(len(p), pendingSize-len(b.pending))
		b.pending = append(b.pending, p[:took]...)
		p = p[took:]
		if len(b.pending) == pendingSize {
			if err := b.flush(); err != nil {
				return n - len(p), err
			}
		}
	}
	return n, nil
}

// open makes the file and takes its name away.
func (b *Buffer) open() error {
	f, err := os.CreateTemp(b.dir, "spill-")
	if err != nil {
		return fmt.Errorf("make room for what does not fit in memory: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, f.Close())
	}
	b.file, b.pending = f, make([]byte, 0, pendingSize)
	return nil
}

func (b *Buffer) flush() error {
	if _, err := b.file.Write(b.pending); err != nil {
		return fmt.Errorf("keep what does not fit in memory: %w", err)
	}
	b.written += int64(len(b.pending))
	b.pending = b.pending[:0]
	return nil
}

// ReadAt reads as [io.ReaderAt] does.
func (b *Buffer) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("read at negative offset %d", off)
	}
	if off < int64(len(b.mem)) {
		n = copy(p, b.mem[off:])
	}
	if n == len(p) {
		return n, nil
	}
	at := off + int64(n) - int64(len(b.mem)) // in the file
	if at < b.written {
		part := p[n:min(int64(len(p)), int64(n)+b.written-at)]
		got, err := b.file.ReadAt(part, at)
		n += got
		if err != nil {
			return n, fmt.Errorf("read what does not fit in memory: %w", err)
		}
		at += int64(got)
	}
	if at -= b.written; at >= 0 && at < int64(len(b.pending)) {
		n += copy(p[n:], b.pending[at:])
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteTo writes all bytes to w.
func (b *Buffer) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(b.mem)
	total := int64(n)
	if err != nil || b.file == nil {
		return total, err
	}
	more, err := io.CopyBuffer(struct{ io.Writer }{w}, io.NewSectionReader(b.file, 0, b.written), make([]byte, pendingSize))
	total += more
	if err != nil {
		return total, err
	}
	n, err = w.Write(b.pending)
	return total + int64(n), err
}

// Close gives back memory and file. The Buffer is empty then. Close may be called
// again.
func (b *Buffer) Close() error {
	f := b.file
	*b = Buffer{dir: b.dir, keep: b.keep}
	if f == nil {
		return nil
	}
	return f.Close()
}
