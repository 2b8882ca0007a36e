package tardev

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/kata-cc/kata-cc/verity"
)

// Layer says what a layer file is.
type Layer struct {
	DiffID   string // "sha256:" and the lower-case hex SHA-256 of the tar
	RootHash string // of the dm-verity tree, lower-case hex
	TarSize  int64  // bytes
	DataSize int64  // bytes of tar and index, which the tree covers: D
	Size     int64  // bytes of the whole file
	Inodes   uint64
}

// BuildOptions are what may be chosen about [Build]. The zero value will do.
type BuildOptions struct {
	// Lost, if set, hears of everything that the tar has and the layer file cannot
	// hold: the path, cut after 4095 bytes, and what is lost of it.
	Lost func(path, what string)
	// TempDir is where temporary files go that Build needs for very large layers;
	// if it is "", in that of [os.TempDir]. They have no names and end with Build.
	TempDir string
}

// Build writes to dst the layer file of a layer's blob: a tar, plain or
// compressed with gzip or zstd. It passes over the blob once: decompressing,
// writing, hashing for the diff id and for the tree and reading the tar go on at
// the same time.
//
// Memory is some 40 MiB, up to 150 bytes for each file or directory, whatever
// their sizes and names are, and for zstd the window that the blob asks for, up to
// 128 MiB; what else there is to keep goes to temporary files. A layer may have
// 16,777,215 files and directories.
//
// A tar that cannot be read is [ErrTar], a blob [ErrBlob]; what was written to dst before an error
// is of no use.
func Build(ctx context.Context, dst io.Writer, blob io.Reader, o BuildOptions) (_ Layer, err error) {
	if o.Lost == nil {
		o.Lost = func(string, string) {}
	}
	tar, err := Decompress(blob)
	if err != nil {
		return Layer{}, err
	}
	defer tar.Close()

	x := newIndex(o.TempDir, o.Lost)
	s := &scanner{found: x.add}
	diffID := sha256.New()
	tree := verity.NewHasher(o.TempDir)
	defer func() { err = errors.Join(err, x.Close(), tree.Close()) }()
	size, err := fanOut(ctx, tar, dst, diffID, tree, s)
	if errors.Is(err, ErrBlob) {
		return Layer{}, fmt.Errorf("%w, within %s", err, s.whose())
	}
	if err != nil {
		return Layer{}, err
	}
	if err = s.Close(); err != nil {
		return Layer{}, err
	}
	inodes, err := x.writeTo(io.MultiWriter(dst, tree), uint64(size))
	if err != nil {
		return Layer{}, fmt.Errorf("write layer index: %w", err)
	}
	sb, root, err := tree.Finish(dst)
	if err != nil {
		return Layer{}, err
	}
	return Layer{
		DiffID:   fmt.Sprintf("sha256:%x", diffID.Sum(nil)),
		RootHash: root,
		TarSize:  size,
		DataSize: sb.DataSize(),
		Size:     sb.Size(),
		Inodes:   inodes,
	}, nil
}
