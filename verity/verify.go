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

// verifySize is how many bytes Verify reads at once, a multiple of BlockSize.
const verifySize = 4 << 20

// Verify checks a whole layer file of size bytes against a root hash: superblock,
// every data block and every block of the tree. The error is [ErrSuperblock] or
// [ErrMismatch], which says where.
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
	// From the root down: what a level's blocks hash to is in the level above.
	at := sb.DataSize()
	above := root
	counts := levels(sb.DataBlocks)
	for i := len(counts) - 1; i >= 0; i-- {
		level := make([]byte, counts[i]*BlockSize)
		if _, err := r.ReadAt(level, at); err != nil {
			return fmt.Errorf("read verity tree at %d: %w", at, err)
		}
		if err := compare(appendDigests(nil, level), above, at); err != nil {
			return err
		}
		at += int64(len(level))
		above = level
	}
	buf := make([]byte, min(verifySize, sb.DataSize()))
	for off := int64(0); off < sb.DataSize(); off += int64(len(buf)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		buf = buf[:min(int64(len(buf)), sb.DataSize()-off)]
		if _, err := r.ReadAt(buf, off); err != nil {
			return fmt.Errorf("read verity data at %d: %w", off, err)
		}
		if err := compare(appendDigests(nil, buf), above[off/BlockSize*DigestSize:], off); err != nil {
			return err
		}
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
