package verity

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"runtime"
	"sync"
)

// minPart is how many blocks a goroutine must have to be worth starting.
const minPart = 32

// Hasher makes the tree of data as it streams by. Memory is 1/128 of the data.
type Hasher struct {
	digests []byte // of the blocks so far
	partial []byte // of the block to come
}

// NewHasher returns a Hasher that has seen nothing.
func NewHasher() *Hasher {
	return &Hasher{partial: make([]byte, 0, BlockSize)}
}

// Write takes the next data and hashes it on all cores before it returns. It
// does not fail.
func (h *Hasher) Write(p []byte) (int, error) {
	n := len(p)
	if len(h.partial) > 0 {
		take := min(len(p), BlockSize-len(h.partial))
		h.partial = append(h.partial, p[:take]...)
		p = p[take:]
		if len(h.partial) < BlockSize {
			return n, nil
		}
		h.digests = appendDigests(h.digests, h.partial)
		h.partial = h.partial[:0]
	}
	whole := len(p) &^ (BlockSize - 1)
	h.digests = appendDigests(h.digests, p[:whole])
	h.partial = append(h.partial, p[whole:]...)
	return n, nil
}

// Finish writes tree and superblock, which follow the data in a layer file, and
// returns the superblock and the root hash. The data must be whole blocks, and at
// least one.
func (h *Hasher) Finish(w io.Writer) (Superblock, string, error) {
	if len(h.partial) > 0 || len(h.digests) == 0 {
		return Superblock{}, "", fmt.Errorf("verity data of %d blocks and %d bytes is not whole blocks", len(h.digests)/DigestSize, len(h.partial))
	}
	sb := Superblock{BlockSize, BlockSize, uint64(len(h.digests)) / DigestSize}
	level := h.digests
	var tree [][]byte
	for len(level) > DigestSize {
		level = append(level, make([]byte, -len(level)&(BlockSize-1))...)
		tree = append(tree, level)
		level = appendDigests(nil, level)
	}
	for i := len(tree) - 1; i >= 0; i-- { // the root level first
		if _, err := w.Write(tree[i]); err != nil {
			return Superblock{}, "", fmt.Errorf("write verity tree: %w", err)
		}
	}
	if _, err := w.Write(sb.block()); err != nil {
		return Superblock{}, "", fmt.Errorf("write verity superblock: %w", err)
	}
	return sb, hex.EncodeToString(level), nil
}

// appendDigests appends the digests of whole blocks.
func appendDigests(to, blocks []byte) []byte {
	count := len(blocks) / BlockSize
	at := len(to)
	to = append(to, make([]byte, count*DigestSize)...)
	out := to[at:]
	part := max(minPart, (count-1)/runtime.GOMAXPROCS(0)+1)
	if count <= part {
		hashBlocks(out, blocks)
		return to
	}
	var wg sync.WaitGroup
	for i := 0; i < count; i += part {
		end := min(i+part, count)
		wg.Go(func() { hashBlocks(out[i*DigestSize:end*DigestSize], blocks[i*BlockSize:end*BlockSize]) })
	}
	wg.Wait()
	return to
}

// hashBlocks writes the digest of each block to out.
func hashBlocks(out, blocks []byte) {
	h := sha256.New()
	for i := 0; i < len(blocks); i += BlockSize {
		h.Reset()
		h.Write(salt[:])
		h.Write(blocks[i : i+BlockSize])
		h.Sum(out[:0])
		out = out[DigestSize:]
	}
}
