// Package tardev reads and writes layer files: a layer of an image as one
// read-only disk. A layer file is
//
//	tar ‖ index ‖ dm-verity tree
//
// The tar is the layer's, byte for byte. The index makes a file system of it:
// inodes, directory entries, targets of long symbolic links, names, and in its
// last block a superblock that says where the inodes are. Tar and index are D
// bytes long, a multiple of 4096, and are what the tree of package verity
// covers; a reader sees only those D bytes. All integers are little-endian.
//
// The format is that of the kernel module tarfs and of the tardev-snapshotter of
// microsoft/kata-containers 3.2.0.azl1; docs/tardev-format.md tells it in full.
package tardev

const (
	blockSize      = 4096
	superblockSize = 512 // at the end of the last block
	inodeSize      = 32
	dirEntrySize   = 32

	// RootIno is the inode number of the root directory.
	RootIno = 1
)

// File types as directory entries have them, those of dirent(3).
const (
	typeUnknown = 0
	typeFIFO    = 1
	typeChar    = 2
	typeDir     = 4
	typeBlock   = 6
	typeRegular = 8
	typeSymlink = 10
	typeSocket  = 12
)

// Bits of an inode's mode, those of stat(2).
const (
	modeType    = 0o170000
	modeFIFO    = 0o010000
	modeChar    = 0o020000
	modeDir     = 0o040000
	modeBlock   = 0o060000
	modeRegular = 0o100000
	modeSymlink = 0o120000
	modeSocket  = 0o140000
)

// flagOpaque is the flag of a directory that hides what lower layers have there.
const flagOpaque = 1
