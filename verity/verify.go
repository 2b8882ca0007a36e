package verity

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

// ErrMismatch says that data or tree is not what the root hash stands for.
var ErrMismatch = errors.New("verity mismatch")

const (
	// verifyTree is how many blocks of the tree Verify reads at once: those that one
	// block of the level above is about.
	verifyTree = digestsPerBlock
	// verifyData is how many blocks of data Verify reads at once.
	verifyData = 1024
)

// Verify checks a whole layer file of size bytes against a root hash: superblock,
// every data block and every block of the tree. The error is [ErrSuperblock] or
// [ErrMismatch], which says where. It goes from the root down and keeps only the
// branch in hand in memory.
func Verify(ctx context.Context, r io.ReaderAt, size int64, rootHash string) error {
	if err := CheckRootHash(rootHash); err != nil {
		return err
	}
	sb, err := ReadSuperblock(r, size)
	if err != nil {
		return err
	}
	root, err := hex.DecodeString(rootHash)
	if err != nil {
		return err
	}
	v := &verification{r: r, parts: []part{{what: "data", blocks: sb.DataBlocks, buf: make([]byte, min(verifyData, sb.DataBlocks)*BlockSize)}}}
	for _, n := range levels(sb.DataBlocks) {
		v.parts = append(v.parts, part{what: "tree", blocks: n, buf: make([]byte, min(verifyTree, n)*BlockSize)})
	}
	at := sb.DataSize()
	for i := len(v.parts) - 1; i > 0; i-- { // the root level comes first
		v.parts[i].at = at
		at += int64(v.parts[i].blocks) * BlockSize
	}
	return v.check(ctx, len(v.parts)-1, 0, root)
}

// verification is one run of Verify.
type verification struct {
	r       io.ReaderAt
	parts   []part // the data, and the levels of the tree from there up
	digests []byte // scratch
}

// part is the data or a level of the tree.
type part struct {
	what   string
	at     int64 // offset
	blocks uint64
	buf    []byte
}

// check compares the blocks of a part from the first on with the digests that
// they must have, and then what the blocks are digests of.
func (v *verification) check(ctx context.Context, i int, first uint64, want []byte) error {
	p := &v.parts[i]
	for left := min(uint64(len(want))/DigestSize, p.blocks-first); left > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		blocks := p.buf[:min(left*BlockSize, uint64(len(p.buf)))]
		at := p.at + int64(first)*BlockSize
		if _, err := v.r.ReadAt(blocks, at); err != nil {
			return fmt.Errorf("read verity %s at %d: %w", p.what, at, err)
		}
		v.digests = appendDigests(v.digests[:0], blocks)
		if err := compare(v.digests, want, at); err != nil {
			return err
		}
		if i > 0 {
			if err := v.check(ctx, i-1, first*digestsPerBlock, blocks); err != nil {
				return err
			}
		}
		n := uint64(len(blocks)) / BlockSize
		first, left, want = first+n, left-n, want[n*DigestSize:]
	}
	return nil
}

// ClaimedRoot returns the root hash that a layer file of size bytes has by its
// tree's root block. It is the file's own word: only [Verify] with a hash from
// elsewhere says whether the content is the one meant.
func ClaimedRoot(r io.ReaderAt, size int64) (string, error) {
	sb, err := ReadSuperblock(r, size)
	if err != nil {
		return "", err
	}
	at := sb.DataSize()
	if TreeBlocks(sb.DataBlocks) == 0 {
		at = 0 // a single block is its own root
	}
	root := make([]byte, BlockSize)
	if _, err := r.ReadAt(root, at); err != nil {
		return "", fmt.Errorf("read verity tree at %d: %w", at, err)
	}
	return hex.EncodeToString(appendDigests(nil, root)), nil
}

// compare looks for the first digest that is not as it should be; the blocks are
// those from offset at on.
func compare(got, want []byte, at int64) error {
	if bytes.Equal(got, want[:len(got)]) {
		return nil
	}
	for i := 0; i < len(got); i += DigestSize {
		if !bytes.Equal(got[i:i+DigestSize], want[i:i+DigestSize]) {
			at += int64(i) / DigestSize * BlockSize
			break
		}
	}
	return fmt.Errorf("%w: block at offset %d", ErrMismatch, at)
}
