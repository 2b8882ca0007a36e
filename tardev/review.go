package tardev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
)

// Review reads the tar that the layer begins with and makes its index again: o.Lost
// hears what it heard of [Build]. If the layer's own index is another, the error is
// [ErrCorrupt]; if the tar cannot be read, [ErrTar].
func (f *FS) Review(ctx context.Context, o BuildOptions) (err error) {
	if o.Lost == nil {
		o.Lost = func(string, string) {}
	}
	x := newIndex(o.TempDir, o.Lost)
	defer func() { err = errors.Join(err, x.Close()) }()
	s := &scanner{found: x.add}
	if _, err := fanOut(ctx, io.NewSectionReader(f.r, 0, f.TarSize()), s); err != nil {
		return err
	}
	if err := s.Close(); err != nil {
		return err
	}
	c := &comparison{r: f.r, at: f.TarSize()}
	if _, err := x.writeTo(c, f.inodeTable); err != nil {
		return err
	}
	if c.at != f.Size() {
		return fmt.Errorf("%w: it ends at %d, that of the tar at %d", ErrCorrupt, f.Size(), c.at)
	}
	return nil
}

// comparison takes what should be in r from an offset on.
type comparison struct {
	r   io.ReaderAt
	at  int64
	buf []byte
}

func (c *comparison) Write(p []byte) (int, error) {
	c.buf = append(c.buf[:0], p...)
	if n, err := c.r.ReadAt(c.buf, c.at); n < len(p) {
		return 0, fmt.Errorf("read layer index at %d: %w", c.at, err)
	}
	if !bytes.Equal(c.buf, p) {
		i := 0
		for c.buf[i] == p[i] {
			i++
		}
		return 0, fmt.Errorf("%w: at %d it is not what the tar says", ErrCorrupt, c.at+int64(i))
	}
	c.at += int64(len(p))
	return len(p), nil
}
