package verity

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/kata-cc/kata-cc/internal/spill"
)

const (
	// minPart is how many blocks a goroutine must have to be worth starting.
	minPart = 32
	// keepLevel is how many bytes of each level of the tree stay in memory: the
	// lowest level over 512 MiB of data.
	keepLevel = 4 << 20
)

// Hasher makes the tree of data as it streams by. Its memory does not depend on
// the data: what of the tree is beyond a few MiB goes to a temporary file.
type Hasher struct {
	dir     string
	keep    int     // bytes of each level that stay in memory
	blocks  uint64  // of data, so far
	partial []byte  // of the block to come
	digests []byte  // scratch
	levels  []level // that above the data first
	top     []byte  // digest of the single block that there is on the level below it
}

// level is one level of the tree: its whole blocks, and the digests that do not
// make one yet.
type level struct {
	whole   *spill.Buffer
	partial []byte
}

// NewHasher returns a Hasher that has seen nothing. Its temporary files, if it
// needs any, are in tempDir, or in that of [os.TempDir] if tempDir is "".
func NewHasher(tempDir string) *Hasher {
	return &Hasher{dir: tempDir, keep: keepLevel, partial: make([]byte, 0, BlockSize)}
}

// Write takes the next data and hashes it on all cores before it returns. It
// fails only with its temporary file.
func (h *Hasher) Write(p []byte) (int, error) {
	n := len(p)
	if len(h.partial) > 0 {
		take := min(len(p), BlockSize-len(h.partial))
		h.partial = append(h.partial, p[:take]...)
		p = p[take:]
		if len(h.partial) < BlockSize {
			return n, nil
		}
		if err := h.hash(0, h.partial); err != nil {
			return 0, err
		}
		h.partial = h.partial[:0]
	}
	whole := len(p) &^ (BlockSize - 1)
	if err := h.hash(0, p[:whole]); err != nil {
		return 0, err
	}
	h.partial = append(h.partial, p[whole:]...)
	return n, nil
}

// hash takes whole blocks of a level, of which 0 is the data, and enters their
// digests in the level above.
func (h *Hasher) hash(of int, blocks []byte) error {
	if len(blocks) == 0 {
		return nil
	}
	if of == 0 {
		h.blocks += uint64(len(blocks)) / BlockSize
	}
	h.digests = appendDigests(h.digests[:0], blocks)
	if of == len(h.levels) {
		if h.top == nil && len(h.digests) == DigestSize {
			h.top = append(h.top, h.digests...) // of the one block of this level, so far
			return nil
		}
		h.levels = append(h.levels, level{whole: spill.New(h.dir, h.keep), partial: append(make([]byte, 0, 2*BlockSize), h.top...)})
		h.top = nil
	}
	l := &h.levels[of]
	l.partial = append(l.partial, h.digests...)
	whole := len(l.partial) &^ (BlockSize - 1)
	if whole == 0 {
		return nil
	}
	if _, err := l.whole.Write(l.partial[:whole]); err != nil {
		return fmt.Errorf("keep level %d of the verity tree: %w", of, err)
	}
	if err := h.hash(of+1, l.partial[:whole]); err != nil {
		return err
	}
	l = &h.levels[of] // the slice may have moved
	l.partial = append(l.partial[:0], l.partial[whole:]...)
	return nil
}

// Finish writes tree and superblock, which follow the data in a layer file, and
// returns the superblock and the root hash. The data must be whole blocks, and at
// least one. It closes the Hasher.
func (h *Hasher) Finish(w io.Writer) (_ Superblock, root string, err error) {
	defer func() { err = errors.Join(err, h.Close()) }()
	if len(h.partial) > 0 || h.blocks == 0 {
		return Superblock{}, "", fmt.Errorf("verity data of %d blocks and %d bytes is not whole blocks", h.blocks, len(h.partial))
	}
	sb := Superblock{BlockSize, BlockSize, h.blocks}
	for i := 0; i < len(h.levels); i++ { // which grows, by one at most
		l := &h.levels[i]
		if len(l.partial) == 0 {
			continue
		}
		last := append(l.partial, make([]byte, BlockSize-len(l.partial))...)
		if _, err := l.whole.Write(last); err != nil {
			return Superblock{}, "", fmt.Errorf("keep level %d of the verity tree: %w", i, err)
		}
		l.partial = nil
		if err := h.hash(i+1, last); err != nil {
			return Superblock{}, "", err
		}
	}
	for i := len(h.levels) - 1; i >= 0; i-- { // the root level first
		if _, err := h.levels[i].whole.WriteTo(w); err != nil {
			return Superblock{}, "", fmt.Errorf("write verity tree: %w", err)
		}
	}
	if _, err := w.Write(sb.block()); err != nil {
		return Superblock{}, "", fmt.Errorf("write verity superblock: %w", err)
	}
	return sb, hex.EncodeToString(h.top), nil
}

// Close gives back the temporary files of a Hasher that will not be finished. It
// may be called again.
func (h *Hasher) Close() error {
	var errs []error
	for _, l := range h.levels {
		errs = append(errs, l.whole.Close())
	}
	return errors.Join(errs...)
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
