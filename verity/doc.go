// Package verity makes and checks the dm-verity trees that close layer files.
//
// A layer file is data ‖ tree ‖ superblock block. The data is D bytes long, a
// multiple of [BlockSize]. The tree is dm-verity's, version 1, with SHA-256, data
// and hash blocks of 4096 bytes and a salt of 32 zero bytes that is hashed before
// the block; its levels follow each other from the root down. The superblock is
// not cryptsetup's: it stands in the last 512 bytes of the last block and says no
// more than the block sizes and how many blocks are data, and no hash covers it.
// Whoever reads it must therefore check that data and tree fill the device.
package verity

import "fmt"

const (
	// BlockSize is the size in bytes of data and hash blocks.
	BlockSize = 4096
	// DigestSize is the size in bytes of a SHA-256 digest.
	DigestSize = 32

	digestsPerBlock = BlockSize / DigestSize
)

// salt is what every block is hashed behind.
var salt [DigestSize]byte

// levels returns the number of hash blocks of each level of the tree over
// dataBlocks blocks, the level above the data first and the root's last. A tree
// over a single block has no level: its root hash is that of the block.
func levels(dataBlocks uint64) []uint64 {
	var counts []uint64
	for n := dataBlocks; n > 1; {
		n = (n-1)/digestsPerBlock + 1
		counts = append(counts, n)
	}
	return counts
}

// TreeBlocks returns how many hash blocks the tree over dataBlocks blocks has.
func TreeBlocks(dataBlocks uint64) uint64 {
	var sum uint64
	for _, n := range levels(dataBlocks) {
		sum += n
	}
	return sum
}

// CheckRootHash refuses what is not a root hash: 64 lower-case hex digits.
func CheckRootHash(s string) error {
	if len(s) != 2*DigestSize {
		return fmt.Errorf("root hash %.80q has %d characters, not %d", s, len(s), 2*DigestSize)
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return fmt.Errorf("root hash %q is not lower-case hex", s)
		}
	}
	return nil
}
