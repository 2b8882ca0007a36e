package tardev

import (
	"encoding/binary"
	"io/fs"
	"time"
)

// Inode is one file of a layer.
type Inode struct {
	Ino uint64 // from 1, the root directory
	// Mode has the type and the permission bits as stat(2) has them. It is 0 for
	// a directory that the tar implies but does not name: such a node has a name
	// in its parent and no other existence.
	Mode     uint32
	Opaque   bool // a directory that hides what lower layers have there
	UID, GID uint32
	Mtime    int64  // seconds since the epoch, 36 bits
	Size     uint64 // bytes; of a directory, 32 for each entry
	// offset is where the file's data, the directory's entries or the symbolic
	// link's target begin, or a device's numbers.
	offset uint64
}

// IsDir says whether n is a directory.
func (n *Inode) IsDir() bool { return n.Mode&modeType == modeDir }

// IsRegular says whether n is a regular file.
func (n *Inode) IsRegular() bool { return n.Mode&modeType == modeRegular }

// IsSymlink says whether n is a symbolic link.
func (n *Inode) IsSymlink() bool { return n.Mode&modeType == modeSymlink }

// IsDevice says whether n is a character or block device.
func (n *Inode) IsDevice() bool {
	return n.Mode&modeType == modeChar || n.Mode&modeType == modeBlock
}

// IsWhiteout says whether n hides a name of lower layers: a character device 0:0.
func (n *Inode) IsWhiteout() bool {
	return n.Mode&modeType == modeChar && n.offset == 0
}

// Device returns the numbers of a device, and zeros for any other file.
func (n *Inode) Device() (major, minor uint32) {
	if !n.IsDevice() {
		return 0, 0
	}
	return uint32(n.offset >> 32), uint32(n.offset)
}

// ModTime returns the time of the last change.
func (n *Inode) ModTime() time.Time { return time.Unix(n.Mtime, 0) }

// FileMode returns the mode as package fs has it. A node without a type is
// irregular.
func (n *Inode) FileMode() fs.FileMode {
	perm := fs.FileMode(n.Mode & 0o777)
	switch n.Mode & modeType {
	case modeRegular:
		return perm
	case modeDir:
		return perm | fs.ModeDir
	case modeSymlink:
		return perm | fs.ModeSymlink
	case modeFIFO:
		return perm | fs.ModeNamedPipe
	case modeSocket:
		return perm | fs.ModeSocket
	case modeChar:
		return perm | fs.ModeDevice | fs.ModeCharDevice
	case modeBlock:
		return perm | fs.ModeDevice
	}
	return perm | fs.ModeIrregular
}

// decodeInode reads a record of the inode table.
func decodeInode(ino uint64, b *[inodeSize]byte) Inode {
	le := binary.LittleEndian
	return Inode{
		Ino:    ino,
		Mode:   uint32(le.Uint16(b[0:])),
		Opaque: b[2]&flagOpaque != 0,
		Mtime:  int64(b[3]&0xf)<<32 | int64(le.Uint32(b[12:])),
		UID:    le.Uint32(b[4:]),
		GID:    le.Uint32(b[8:]),
		Size:   le.Uint64(b[16:]),
		offset: le.Uint64(b[24:]),
	}
}

// appendTo appends the record of the inode table.
func (n *Inode) appendTo(b []byte) []byte {
	le := binary.LittleEndian
	var flags byte
	if n.Opaque {
		flags = flagOpaque
	}
	b = le.AppendUint16(b, uint16(n.Mode))
	b = append(b, flags, byte(n.Mtime>>32)&0xf)
	b = le.AppendUint32(b, n.UID)
	b = le.AppendUint32(b, n.GID)
	b = le.AppendUint32(b, uint32(n.Mtime))
	b = le.AppendUint64(b, n.Size)
	return le.AppendUint64(b, n.offset)
}

// direntType returns the type that a directory entry gives to a file of mode m.
func direntType(m uint32) byte {
	switch m & modeType {
	case modeFIFO, modeChar, modeDir, modeBlock, modeRegular, modeSymlink, modeSocket:
		return byte(m >> 12)
	}
	return typeUnknown
}
