package verity

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"sync"
)

// Reader reads the data of a layer file and checks every block of it, as the
// device mapper's verity target does. It reads a block of the tree when it first
// needs it, and keeps some of them. It is safe for concurrent use.
type Reader struct {
	r     io.ReaderAt
	data  int64 // bytes
	root  [DigestSize]byte
	start []int64 // offset of each level of the tree, that above the data first

	mu   sync.Mutex
	kept map[int64][]byte // verified blocks of the tree by offset
}

// maxKept bounds how many blocks of the tree a Reader keeps: 4 MiB.
const maxKept = 1024

// NewReader returns a Reader of the layer file of size bytes, having checked its
// superblock and no more.
func NewReader(r io.ReaderAt, size int64, rootHash string) (*Reader, error) {
	if err := CheckRootHash(rootHash); err != nil {
		return nil, err
	}
	sb, err := ReadSuperblock(r, size)
	if err != nil {
		return nil, err
	}
	v := &Reader{r: r, data: sb.DataSize(), kept: map[int64][]byte{}}
	if _, err := hex.Decode(v.root[:], []byte(rootHash)); err != nil {
		return nil, err
	}
	counts := levels(sb.DataBlocks)
	v.start = make([]int64, len(counts))
	at := v.data
	for i := len(counts) - 1; i >= 0; i-- {
		v.start[i] = at
		at += int64(counts[i]) * BlockSize
	}
	return v, nil
}

// Size returns the size of the data in bytes.
func (v *Reader) Size() int64 { return v.data }

// ReadAt reads as [io.ReaderAt] does. A block that is not what the root hash
// stands for is [ErrMismatch], and nothing of it gets out.
func (v *Reader) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("read at negative offset %d", off)
	}
	var partial []byte
	for n < len(p) {
		if off >= v.data {
			return n, io.EOF
		}
		if off%BlockSize == 0 && len(p)-n >= BlockSize {
			got, err := v.blocks(off, p[n:])
			n += got
			off += int64(got)
			if err != nil {
				return n, err
			}
			continue
		}
		if partial == nil {
			partial = make([]byte, BlockSize)
		}
		if _, err := v.blocks(off&^(BlockSize-1), partial); err != nil {
			return n, err
		}
		got := copy(p[n:], partial[off%BlockSize:])
		n += got
		off += int64(got)
	}
	return n, nil
}

// blocks reads whole blocks, as many as fit in p and have their digests in one
// block of the tree, and returns how many bytes of them are good. What is not good
// is cleared.
func (v *Reader) blocks(off int64, p []byte) (n int, err error) {
	first := off / BlockSize
	p = p[:min(int64(len(p))&^(BlockSize-1), v.data-off, (digestsPerBlock-first%digestsPerBlock)*BlockSize)]
	want, err := v.digests(first)
	if err != nil {
		return 0, err
	}
	defer func() { clear(p[n:]) }()
	if _, err := v.r.ReadAt(p, off); err != nil {
		return 0, fmt.Errorf("read blocks at %d: %w", off, err)
	}
	for ; n < len(p); n += BlockSize {
		if !matches(p[n:n+BlockSize], want[n/BlockSize*DigestSize:][:DigestSize]) {
			return n, fmt.Errorf("%w: block at offset %d", ErrMismatch, off+int64(n))
		}
	}
	return n, nil
}

// digests returns what the i-th block of the data and those after it must hash
// to, as far as one block of the tree says.
func (v *Reader) digests(i int64) ([]byte, error) {
	if len(v.start) == 0 {
		return v.root[:], nil
	}
	block, err := v.hashBlock(0, i/digestsPerBlock)
	if err != nil {
		return nil, err
	}
	return block[i%digestsPerBlock*DigestSize:], nil
}

// hashBlock returns the i-th block of a level of the tree.
func (v *Reader) hashBlock(level int, i int64) ([]byte, error) {
	at := v.start[level] + i*BlockSize
	v.mu.Lock()
	block := v.kept[at]
	v.mu.Unlock()
	if block != nil {
		return block, nil
	}
	want := v.root[:]
	if level+1 < len(v.start) {
		above, err := v.hashBlock(level+1, i/digestsPerBlock)
		if err != nil {
			return nil, err
		}
		want = above[i%digestsPerBlock*DigestSize:][:DigestSize]
	}
	block = make([]byte, BlockSize)
	if _, err := v.r.ReadAt(block, at); err != nil {
		return nil, fmt.Errorf("read block of the tree at %d: %w", at, err)
	}
	if !matches(block, want) {
		return nil, fmt.Errorf("%w: block of the tree at offset %d", ErrMismatch, at)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.kept) >= maxKept {
		clear(v.kept)
	}
	v.kept[at] = block
	return block, nil
}

// matches says whether a block hashes to a digest.
func matches(block, digest []byte) bool {
	var sum [DigestSize]byte
	hashBlocks(sum[:], block)
	return bytes.Equal(sum[:], digest)
}
