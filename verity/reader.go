package verity

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"sync"
)

// Reader reads the data of a layer file and checks every block of it, as the
// device mapper's verity target does. It reads a block of the tree when it first
// needs it, and keeps some of them. It is safe for concurrent use.
type Reader struct {
	r    io.ReaderAt
	data int64 // bytes
	root [DigestSize]byte
	// start and blocks of each level, that above the data first.
	start  []int64
	blocks []int64

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
	v.start, v.blocks = make([]int64, len(counts)), make([]int64, len(counts))
	at := v.data
	for i := len(counts) - 1; i >= 0; i-- {
		v.start[i], v.blocks[i] = at, int64(counts[i])
		at += v.blocks[i] * BlockSize
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
	block := make([]byte, BlockSize)
	for n < len(p) {
		if off >= v.data {
			return n, io.EOF
		}
		if err := v.block(off/BlockSize, block); err != nil {
			return n, err
		}
		got := copy(p[n:], block[off%BlockSize:])
		n += got
		off += int64(got)
	}
	return n, nil
}

// block reads and checks the i-th block of the data.
func (v *Reader) block(i int64, buf []byte) error {
	want, err := v.digest(0, i)
	if err != nil {
		return err
	}
	return v.read(i*BlockSize, want, buf)
}

// digest returns what the i-th block below a level must hash to.
func (v *Reader) digest(level int, i int64) ([]byte, error) {
	if level == len(v.start) {
		return v.root[:], nil
	}
	at := v.start[level] + i/digestsPerBlock*BlockSize
	v.mu.Lock()
	block := v.kept[at]
	v.mu.Unlock()
	if block == nil {
		want, err := v.digest(level+1, i/digestsPerBlock)
		if err != nil {
			return nil, err
		}
		block = make([]byte, BlockSize)
		if err := v.read(at, want, block); err != nil {
			return nil, err
		}
		v.mu.Lock()
		if len(v.kept) >= maxKept {
			clear(v.kept)
		}
		v.kept[at] = block
		v.mu.Unlock()
	}
	return block[i%digestsPerBlock*DigestSize:][:DigestSize], nil
}

// read reads the block at an offset and compares its digest.
func (v *Reader) read(at int64, want, buf []byte) error {
	if _, err := v.r.ReadAt(buf, at); err != nil {
		return fmt.Errorf("read block at %d: %w", at, err)
	}
	h := sha256.New()
	h.Write(salt[:])
	h.Write(buf)
	if !bytes.Equal(h.Sum(nil), want) {
		return fmt.Errorf("%w: block at offset %d", ErrMismatch, at)
	}
	return nil
}
