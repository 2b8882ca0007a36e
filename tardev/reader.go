package tardev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"strings"
)

// ErrCorrupt says that the index of a layer contradicts itself or its size.
var ErrCorrupt = errors.New("corrupt layer index")

// maxText bounds in bytes what a name or a symbolic link's target may claim: no
// tar describes a longer one. Linux allows 255 and 4095.
const maxText = maxDescription

// FS is a layer as a file system. It keeps nothing in memory: every call reads
// what it needs. It is safe for concurrent use if its reader is.
type FS struct {
	r          io.ReaderAt
	size       uint64
	inodeTable uint64 // offset
	inodes     uint64
}

// Open opens the layer in the first size bytes of r, which are tar and index
// without the verity tree: the size that verity.Superblock.DataSize gives, and
// that of the dm-verity device. It fails with [ErrCorrupt] if there is no index.
// Nothing in the layer is trusted, then or later: whatever does not fit in size
// is an error of the call that meets it.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	if size < blockSize || size%blockSize != 0 {
		return nil, fmt.Errorf("%w: %d bytes is no multiple of %d", ErrCorrupt, size, blockSize)
	}
	var raw [16]byte
	if _, err := r.ReadAt(raw[:], size-superblockSize); err != nil {
		return nil, fmt.Errorf("read superblock of the layer index at %d: %w", size-superblockSize, err)
	}
	f := &FS{
		r:          r,
		size:       uint64(size),
		inodeTable: binary.LittleEndian.Uint64(raw[0:]),
		inodes:     binary.LittleEndian.Uint64(raw[8:]),
	}
	if f.inodes == 0 || f.inodes > f.size/inodeSize || f.inodeTable > f.size-f.inodes*inodeSize {
		return nil, fmt.Errorf("%w: %d inodes at %d do not fit in %d bytes", ErrCorrupt, f.inodes, f.inodeTable, size)
	}
	root, err := f.Inode(RootIno)
	if err != nil {
		return nil, err
	}
	if !root.IsDir() {
		return nil, fmt.Errorf("%w: mode of the root is %#o, which is no directory", ErrCorrupt, root.Mode)
	}
	return f, nil
}

// Inodes returns the number of inodes, which are numbered from 1.
func (f *FS) Inodes() uint64 { return f.inodes }

// Size returns the size in bytes of tar and index.
func (f *FS) Size() int64 { return int64(f.size) }

// TarSize returns the size in bytes of the tar that the layer begins with.
func (f *FS) TarSize() int64 { return int64(f.inodeTable) }

// Inode returns the inode of a number.
func (f *FS) Inode(ino uint64) (Inode, error) {
	if ino == 0 || ino > f.inodes {
		return Inode{}, fmt.Errorf("%w: inode %d of %d", ErrCorrupt, ino, f.inodes)
	}
	var raw [inodeSize]byte
	if _, err := f.r.ReadAt(raw[:], int64(f.inodeTable+(ino-1)*inodeSize)); err != nil {
		return Inode{}, fmt.Errorf("read inode %d: %w", ino, err)
	}
	return decodeInode(ino, &raw), nil
}

// Entry is a name in a directory.
type Entry struct {
	// Name may be any bytes. A reader leaves out what [ValidName] refuses.
	Name string
	Ino  uint64
	Type byte // as dirent(3) has it; 0 if the node has no type
}

// ValidName says whether a file in Linux can have the name.
func ValidName(name string) bool {
	return name != "" && name != "." && name != ".." && len(name) <= 255 && !strings.ContainsAny(name, "/\x00")
}

// entry reads the i-th entry of dir, which must have it.
func (f *FS) entry(dir *Inode, i uint64) (Entry, error) {
	var raw [dirEntrySize]byte
	if _, err := f.r.ReadAt(raw[:], int64(dir.offset+i*dirEntrySize)); err != nil {
		return Entry{}, fmt.Errorf("read entry %d of directory %d: %w", i, dir.Ino, err)
	}
	le := binary.LittleEndian
	e := Entry{Ino: le.Uint64(raw[0:]), Type: raw[24]}
	at, n := le.Uint64(raw[8:]), le.Uint64(raw[16:])
	if n > maxText || !f.holds(at, n) {
		return Entry{}, fmt.Errorf("%w: entry %d of directory %d has a name of %d bytes at %d", ErrCorrupt, i, dir.Ino, n, at)
	}
	name := make([]byte, n)
	if _, err := f.r.ReadAt(name, int64(at)); err != nil {
		return Entry{}, fmt.Errorf("read name of entry %d of directory %d: %w", i, dir.Ino, err)
	}
	e.Name = string(name)
	return e, nil
}

// holds says whether n bytes at offset at are within the layer.
func (f *FS) holds(at, n uint64) bool {
	return n <= f.size && at <= f.size-n
}

// entries returns how many entries dir has, having checked that they are there.
func (f *FS) entries(dir *Inode) (uint64, error) {
	if !dir.IsDir() {
		return 0, fmt.Errorf("inode %d: %w", dir.Ino, ErrNotDir)
	}
	if dir.Size%dirEntrySize != 0 || !f.holds(dir.offset, dir.Size) {
		return 0, fmt.Errorf("%w: directory %d has %d bytes at %d", ErrCorrupt, dir.Ino, dir.Size, dir.offset)
	}
	return dir.Size / dirEntrySize, nil
}

// Entries yields the entries of a directory from the one with index from on. It
// ends after the first error.
func (f *FS) Entries(dir Inode, from uint64) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		n, err := f.entries(&dir)
		if err != nil {
			yield(Entry{}, err)
			return
		}
		for i := from; i < n; i++ {
			e, err := f.entry(&dir, i)
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// Lookup returns the inode that a directory has under a name. If there is none,
// or it is a node without a type, the error is [fs.ErrNotExist]. It follows no
// directory to one above it, so that every walk ends.
func (f *FS) Lookup(dir Inode, name string) (Inode, error) {
	high, err := f.entries(&dir)
	if err != nil {
		return Inode{}, err
	}
	for low := uint64(0); low < high; { // names ascend by bytes
		mid := low + (high-low)/2
		e, err := f.entry(&dir, mid)
		if err != nil {
			return Inode{}, err
		}
		switch c := strings.Compare(e.Name, name); {
		case c < 0:
			low = mid + 1
		case c > 0:
			high = mid
		default:
			n, err := f.existing(e.Ino)
			if err == nil && n.IsDir() && n.Ino <= dir.Ino {
				// Numbers are given from the root down: this one leads back up.
				return Inode{}, fmt.Errorf("%w: directory %d is below directory %d", ErrCorrupt, n.Ino, dir.Ino)
			}
			return n, err
		}
	}
	return Inode{}, fs.ErrNotExist
}

// existing returns the inode of a number unless it has no type.
func (f *FS) existing(ino uint64) (Inode, error) {
	n, err := f.Inode(ino)
	if err == nil && direntType(n.Mode) == typeUnknown {
		return Inode{}, fs.ErrNotExist
	}
	return n, err
}

// Readlink returns the target of a symbolic link.
func (f *FS) Readlink(n Inode) (string, error) {
	if !n.IsSymlink() {
		return "", fmt.Errorf("inode %d is no symbolic link: %w", n.Ino, fs.ErrInvalid)
	}
	if n.Size > maxText || !f.holds(n.offset, n.Size) {
		return "", fmt.Errorf("%w: symbolic link %d has a target of %d bytes at %d", ErrCorrupt, n.Ino, n.Size, n.offset)
	}
	target := make([]byte, n.Size)
	if _, err := f.r.ReadAt(target, int64(n.offset)); err != nil {
		return "", fmt.Errorf("read target of symbolic link %d: %w", n.Ino, err)
	}
	return string(target), nil
}

// ReadAt reads from a regular file as [io.ReaderAt] does. A failure of the
// device below is in the error's chain.
func (f *FS) ReadAt(n Inode, p []byte, off int64) (int, error) {
	if !n.IsRegular() {
		return 0, fmt.Errorf("inode %d is no regular file: %w", n.Ino, fs.ErrInvalid)
	}
	if off < 0 {
		return 0, fmt.Errorf("inode %d at offset %d: %w", n.Ino, off, fs.ErrInvalid)
	}
	if !f.holds(n.offset, n.Size) {
		return 0, fmt.Errorf("%w: file %d has %d bytes at %d", ErrCorrupt, n.Ino, n.Size, n.offset)
	}
	if uint64(off) >= n.Size {
		return 0, io.EOF
	}
	rest := n.Size - uint64(off)
	short := uint64(len(p)) > rest
	if short {
		p = p[:rest]
	}
	got, err := f.r.ReadAt(p, int64(n.offset)+off)
	switch {
	case got == len(p) && short:
		return got, io.EOF
	case got == len(p):
		return got, nil
	case err == nil || errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF // the device is shorter than was said
	}
	return got, fmt.Errorf("read file %d at %d: %w", n.Ino, off, err)
}
