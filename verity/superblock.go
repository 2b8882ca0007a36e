package verity

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// superblockOffset is where the superblock begins in the last block.
const superblockOffset = BlockSize - 512

// ErrSuperblock says that a device does not end in a superblock that fits it.
var ErrSuperblock = errors.New("bad verity superblock")

// Superblock is the last block of a layer file. Nothing protects it: only a
// Superblock from [ReadSuperblock] fits the device it came from.
type Superblock struct {
	DataBlockSize, HashBlockSize uint32 // bytes
	DataBlocks                   uint64
}

// ReadSuperblock reads the superblock of a layer file or device of size bytes.
// It refuses with [ErrSuperblock] unless both block sizes are [BlockSize] and
// data, tree and superblock fill size exactly, so that the root hash alone
// decides what is data.
func ReadSuperblock(r io.ReaderAt, size int64) (Superblock, error) {
	if size <= 0 || size%BlockSize != 0 {
		return Superblock{}, fmt.Errorf("%w: device of %d bytes is no multiple of %d", ErrSuperblock, size, BlockSize)
	}
	var raw [16]byte
	if _, err := r.ReadAt(raw[:], size-BlockSize+superblockOffset); err != nil {
		return Superblock{}, fmt.Errorf("read verity superblock at %d: %w", size-BlockSize, err)
	}
	s := Superblock{
		DataBlockSize: binary.LittleEndian.Uint32(raw[0:]),
		HashBlockSize: binary.LittleEndian.Uint32(raw[4:]),
		DataBlocks:    binary.LittleEndian.Uint64(raw[8:]),
	}
	if s.DataBlockSize != BlockSize || s.HashBlockSize != BlockSize {
		return Superblock{}, fmt.Errorf("%w: block sizes %d and %d, not %d", ErrSuperblock, s.DataBlockSize, s.HashBlockSize, BlockSize)
	}
	blocks := uint64(size) / BlockSize
	if s.DataBlocks == 0 || s.DataBlocks >= blocks || s.DataBlocks+TreeBlocks(s.DataBlocks)+1 != blocks {
		return Superblock{}, fmt.Errorf("%w: %d data blocks and their tree do not fill a device of %d blocks", ErrSuperblock, s.DataBlocks, blocks)
	}
	return s, nil
}

// DataSize returns the size of the data in bytes, which is where the tree begins.
func (s Superblock) DataSize() int64 {
	return int64(s.DataBlocks) * BlockSize
}

// Size returns the size in bytes of the whole layer file.
func (s Superblock) Size() int64 {
	return s.DataSize() + int64(TreeBlocks(s.DataBlocks)+1)*BlockSize
}

// Params returns the parameters of the device mapper's verity target for the
// layer file that is the block device at path device. The target is read-only,
// begins at sector 0 and is DataSize()/512 sectors long.
func (s Superblock) Params(device, rootHash string) (string, error) {
	if err := CheckRootHash(rootHash); err != nil {
		return "", err
	}
	if device == "" || strings.ContainsAny(device, " \t\n") {
		return "", fmt.Errorf("device path %q cannot stand in a device mapper table", device)
	}
	return fmt.Sprintf("1 %s %s %d %d %d %d sha256 %s %x", device, device,
		s.DataBlockSize, s.HashBlockSize, s.DataBlocks, s.DataBlocks, rootHash, salt), nil
}

// block returns the superblock as it closes the layer file.
func (s Superblock) block() []byte {
	b := make([]byte, BlockSize)
	binary.LittleEndian.PutUint32(b[superblockOffset:], s.DataBlockSize)
	binary.LittleEndian.PutUint32(b[superblockOffset+4:], s.HashBlockSize)
	binary.LittleEndian.PutUint64(b[superblockOffset+8:], s.DataBlocks)
	return b
}
