// Package erofs writes read-only file systems in the format of Linux's EROFS,
// uncompressed. The same entries give the same bytes.
package erofs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/kata-cc/kata-cc/guest/image/cpio"
)

const (
	magic       = 0xE0F5E1E2
	blockSize   = 4096
	blockBits   = 12
	superOffset = 1024
	inodeSize   = 32 // of the compact form
	direntSize  = 12
	metaBlock   = 1 // inodes begin in the block behind the superblock's
	rootInode   = 1 // number 0 means "none" to readers of directories
	maxSize     = 1 << 31
)

// File types as directories name them.
const (
	typeRegular   = 1
	typeDirectory = 2
	typeCharacter = 3
	typeLink      = 7
)

// superblock is the head of the file system; all that is not here is zero.
type superblock struct {
	Magic, Checksum, FeatureCompat uint32
	BlockBits, ExtSlots            uint8
	Root                           uint16
	Inodes, BuildTime              uint64
	BuildNanoseconds, Blocks       uint32
	MetaBlock, XattrBlock          uint32
	_                              [80]byte
}

// inode is the compact form, whose data is whole blocks elsewhere.
type inode struct {
	Format, Xattrs, Mode, Links uint16
	Size, _                     uint32
	Block                       uint32 // or the number of a device
	Number                      uint32
	_                           [2]uint32
}

type dirent struct {
	Inode      uint64
	NameOffset uint16
	Type, _    uint8
}

type file struct {
	cpio.Entry
	number   uint32
	parent   *file
	children []*file // in the order of their names
}

type writer struct {
	data  bytes.Buffer
	first uint32            // block of data's begin
	have  map[string]uint32 // content to block: equal files are stored once
}

// Make returns the file system with the entries, owned by root, all of the time
// modified. A folder must stand before what is in it.
func Make(entries []cpio.Entry, modified time.Time) ([]byte, error) {
	files, err := plant(entries)
	if err != nil {
		return nil, err
	}
	inodes := make([]byte, pad((rootInode+len(files))*inodeSize))
	w := &writer{first: metaBlock + uint32(len(inodes)/blockSize), have: map[string]uint32{}}
	for _, f := range files {
		i, err := w.inode(f)
		if err != nil {
			return nil, fmt.Errorf("erofs: %q: %w", f.Path, err)
		}
		if _, err := binary.Encode(inodes[f.number*inodeSize:], binary.LittleEndian, i); err != nil {
			return nil, err
		}
	}
	out := make([]byte, blockSize, blockSize+len(inodes)+w.data.Len())
	head := superblock{
		Magic: magic, BlockBits: blockBits, Root: rootInode, Inodes: uint64(len(files)),
		BuildTime: uint64(modified.Unix()), Blocks: w.first + uint32(w.data.Len()/blockSize), MetaBlock: metaBlock,
	}
	if _, err := binary.Encode(out[superOffset:], binary.LittleEndian, head); err != nil {
		return nil, err
	}
	return append(append(out, inodes...), w.data.Bytes()...), nil
}

// plant makes a tree of the entries and numbers it; the root comes first.
func plant(entries []cpio.Entry) ([]*file, error) {
	root := &file{Entry: cpio.Entry{Mode: fs.ModeDir | 0o755}, number: rootInode}
	root.parent = root
	all, byPath := []*file{root}, map[string]*file{".": root}
	for _, e := range entries {
		parent, there := byPath[path.Dir(e.Path)]
		if !there || !parent.Mode.IsDir() || byPath[e.Path] != nil || path.Clean(e.Path) != e.Path {
			return nil, fmt.Errorf("erofs: %q has no folder before it, or comes twice: %w", e.Path, errdefs.ErrInvalidArgument)
		}
		f := &file{Entry: e, number: rootInode + uint32(len(all)), parent: parent}
		parent.children = append(parent.children, f)
		all, byPath[e.Path] = append(all, f), f
	}
	for _, f := range all {
		slices.SortFunc(f.children, func(a, b *file) int { return strings.Compare(a.Path, b.Path) })
	}
	return all, nil
}

// inode stores the content of f and returns what points to it.
func (w *writer) inode(f *file) (inode, error) {
	mode, _, err := kind(f.Mode)
	if err != nil {
		return inode{}, err
	}
	i := inode{Mode: mode, Links: 1, Number: f.number}
	content := f.Data
	switch {
	case f.Mode.IsDir():
		i.Links = 2
		for _, c := range f.children {
			if c.Mode.IsDir() {
				i.Links++
			}
		}
		if content, err = directory(f); err != nil {
			return inode{}, err
		}
	case f.Mode&fs.ModeCharDevice != 0:
		i.Block = f.Minor&0xff | f.Major<<8 | f.Minor&^0xff<<12
		return i, nil
	}
	if len(content) >= maxSize {
		return inode{}, fmt.Errorf("%d bytes are too many: %w", len(content), errdefs.ErrInvalidArgument)
	}
	i.Size, i.Block = uint32(len(content)), w.store(content)
	return i, nil
}

func (w *writer) store(content []byte) uint32 {
	if len(content) == 0 {
		return 0
	}
	if at, there := w.have[string(content)]; there {
		return at
	}
	at := w.first + uint32(w.data.Len()/blockSize)
	w.have[string(content)] = at
	w.data.Write(content)
	w.data.Write(make([]byte, pad(len(content))-len(content)))
	return at
}

// directory is the content of a folder: blocks of entries, then their names, in
// the order of the names over all blocks.
func directory(f *file) ([]byte, error) {
	type named struct {
		name string
		*file
	}
	all := []named{{".", f}, {"..", f.parent}}
	for _, c := range f.children {
		all = append(all, named{path.Base(c.Path), c})
	}
	slices.SortFunc(all, func(a, b named) int { return strings.Compare(a.name, b.name) })
	var out []byte
	for len(all) > 0 {
		size, n := 0, 0
		for n < len(all) && size+direntSize+len(all[n].name) <= blockSize {
			size += direntSize + len(all[n].name)
			n++
		}
		if n == 0 {
			return nil, fmt.Errorf("name of %d bytes: %w", len(all[0].name), errdefs.ErrInvalidArgument)
		}
		out = append(out, make([]byte, pad(len(out))-len(out))...)
		var names []byte
		for _, e := range all[:n] {
			_, kind, err := kind(e.Mode)
			if err != nil {
				return nil, err
			}
			d := dirent{Inode: uint64(e.number), NameOffset: uint16(n*direntSize + len(names)), Type: kind}
			if out, err = binary.Append(out, binary.LittleEndian, d); err != nil {
				return nil, err
			}
			names = append(names, e.name...)
		}
		out, all = append(out, names...), all[n:]
	}
	return out, nil
}

// kind is the mode of a file as Linux has it, and its type in directories.
func kind(m fs.FileMode) (uint16, uint8, error) {
	mode := uint16(m.Perm())
	if m&fs.ModeSticky != 0 {
		mode |= 0o1000
	}
	switch m.Type() {
	case 0:
		return mode | 0o100000, typeRegular, nil
	case fs.ModeDir:
		return mode | 0o040000, typeDirectory, nil
	case fs.ModeSymlink:
		return mode | 0o120000, typeLink, nil
	case fs.ModeDevice | fs.ModeCharDevice:
		return mode | 0o020000, typeCharacter, nil
	}
	return 0, 0, fmt.Errorf("type of mode %v: %w", m, errdefs.ErrNotImplemented)
}

func pad(n int) int { return (n + blockSize - 1) &^ (blockSize - 1) }
