package image

import (
	"compress/gzip"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
)

// Compression is how the initial ramdisk is compressed.
type Compression string

// The compressions that can be chosen; docs/guest.md has what they cost.
const (
	Uncompressed Compression = "none"
	Gzip         Compression = "gzip"
	Zstd         Compression = "zstd"
)

// ParseCompression reads a name as it stands on a command line.
func ParseCompression(s string) (Compression, error) {
	switch c := Compression(s); c {
	case Uncompressed, Gzip, Zstd:
		return c, nil
	}
	return "", fmt.Errorf("compression %q is none of none, gzip, zstd: %w", s, errdefs.ErrInvalidArgument)
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// writer compresses to w. What it writes depends on the data alone: no name, no
// time, one thread.
func (c Compression) writer(w io.Writer) (io.WriteCloser, error) {
	switch c {
	case Uncompressed:
		return nopCloser{w}, nil
	case Gzip:
		return gzip.NewWriterLevel(w, gzip.BestCompression)
	case Zstd:
		// Linux unpacks an initial ramdisk with a window of at most 128 MiB.
		return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBetterCompression),
			zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(8<<20))
	}
	return nil, fmt.Errorf("compression %q: %w", string(c), errdefs.ErrInvalidArgument)
}
