package tardev

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxWindow bounds the memory in bytes that a zstd frame may ask for.
const maxWindow = 128 << 20

var (
	gzipMagic = []byte{0x1f, 0x8b, 0x08}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
	// skippableMagic, after a first byte 0x50..0x5f, begins a zstd frame without data.
	skippableMagic = []byte{0x2a, 0x4d, 0x18}
)

// unsupported are compressions that no layer of an image may have, by how they
// begin.
var unsupported = map[string]string{"\xfd7zXZ\x00": "xz", "BZh": "bzip2"}

// ErrBlob says that a blob cannot be decompressed.
var ErrBlob = errors.New("bad blob")

// Decompress returns the tar in a layer's blob: gzip, of any number of members,
// zstd, of any number of frames, or a tar as it is, told by its first bytes. What
// is wrong with the blob is [ErrBlob]; an error of src comes as it is. Close
// releases what the reader holds and does not close src.
func Decompress(src io.Reader) (io.ReadCloser, error) {
	s := &source{r: src}
	b := bufio.NewReaderSize(s, ioSize)
	magic, err := b.Peek(6)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("read layer: %w", err)
	}
	for begin, name := range unsupported {
		if bytes.HasPrefix(magic, []byte(begin)) {
			return nil, fmt.Errorf("%w: compressed with %s; a layer is gzip, zstd or a plain tar", ErrBlob, name)
		}
	}
	d := &decompressor{from: s}
	switch {
	case bytes.HasPrefix(magic, gzipMagic):
		r, err := gzip.NewReader(b)
		if err != nil {
			return nil, s.explain("gzip", err)
		}
		d.name, d.ReadCloser = "gzip", r
		return d, nil
	case bytes.HasPrefix(magic, zstdMagic), len(magic) >= 4 && magic[0]>>4 == 5 && bytes.Equal(magic[1:4], skippableMagic):
		r, err := zstd.NewReader(b, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, s.explain("zstd", err)
		}
		d.name, d.ReadCloser = "zstd", r.IOReadCloser()
		return d, nil
	}
	return io.NopCloser(b), nil
}

// source remembers whether the blob itself could be read.
type source struct {
	r      io.Reader
	failed atomic.Bool // zstd reads in a goroutine of its own
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.failed.Store(true)
	}
	return n, err
}

// explain gives an error of a decompressor its class: that of the source if it
// failed, else ErrBlob.
func (s *source) explain(name string, err error) error {
	if s.failed.Load() {
		return err
	}
	return fmt.Errorf("%w: %s: %w", ErrBlob, name, err)
}

// decompressor explains the errors of gzip or zstd.
type decompressor struct {
	io.ReadCloser
	from *source
	name string
}

func (d *decompressor) Read(p []byte) (int, error) {
	n, err := d.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = d.from.explain(d.name, err)
	}
	return n, err
}
