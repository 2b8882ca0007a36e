package tardev

import (
	"bufio"
	"bytes"
	"fmt"
	"io"

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

// Decompress returns the tar in a layer's blob: gzip, of any number of members,
// zstd, of any number of frames, or a tar as it is, told by its first bytes.
// Close releases what the reader holds and does not close src.
func Decompress(src io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(src, ioSize)
	magic, err := b.Peek(4)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("read layer: %w", err)
	}
	switch {
	case bytes.HasPrefix(magic, gzipMagic):
		r, err := gzip.NewReader(b)
		if err != nil {
			return nil, fmt.Errorf("read gzip layer: %w", err)
		}
		return r, nil
	case bytes.Equal(magic, zstdMagic), len(magic) == 4 && magic[0]>>4 == 5 && bytes.Equal(magic[1:], skippableMagic):
		r, err := zstd.NewReader(b, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, fmt.Errorf("read zstd layer: %w", err)
		}
		return r.IOReadCloser(), nil
	}
	return io.NopCloser(b), nil
}
