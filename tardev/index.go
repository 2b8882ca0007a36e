package tardev

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
)

// node is a file while the index is built. Its offset and size are final for all
// but directories and long symbolic links.
type node struct {
	Inode
	children map[string]*node
}

// child returns the child of a name, made without a type if there is none.
func (n *node) child(name string) *node {
	c, ok := n.children[name]
	if !ok {
		c = new(node)
		n.put(name, c)
	}
	return c
}

func (n *node) put(name string, c *node) {
	if n.children == nil {
		n.children = map[string]*node{}
	}
	n.children[name] = c
}

// names returns the names of the children in the order of the index.
func (n *node) names() []string {
	return slices.Sorted(maps.Keys(n.children))
}

// index grows with the members of a tar into the file system that they describe.
// Its rules are the original's, odd ones included, because every root hash
// depends on them; docs/tardev-format.md lists them.
type index struct {
	root node
	// targets are those of the symbolic links whose target the header does not
	// hold, in the order of the tar, replaced links included.
	targets [][]byte
	lost    func(path, what string)
}

func newIndex(lost func(path, what string)) *index {
	return &index{root: node{Inode: Inode{Mode: modeDir | 0o555}}, lost: lost}
}

// walk returns the node at a path from the root; what is not there is made
// without a type.
func (x *index) walk(parts []string) *node {
	n := &x.root
	for _, part := range parts {
		n = n.child(part)
	}
	return n
}

// add enters a member of the tar.
func (x *index) add(m *member) error {
	kind, known := kinds[m.header.typeflag()]
	mode, err := m.header.mode()
	parts, inside := split(m.path)
	switch {
	case m.header.typeflag() == 'g':
		return nil // a global extended header is no file
	case !known, err != nil, !inside:
		x.lost(string(m.path), "the whole entry, whose type, mode or path has no place in a layer")
		return nil
	case len(parts) == 0:
		return nil // the root is what it is
	}
	name := parts[len(parts)-1]
	parent := x.walk(parts[:len(parts)-1])
	if hidden, ok := strings.CutPrefix(name, ".wh."); ok {
		if name == ".wh..wh..opq" {
			parent.Opaque = true
		} else {
			parent.child(hidden).whiteOut()
		}
		return nil
	}
	if kind == hardLink {
		x.link(parent, name, m)
		return nil
	}
	n := &node{Inode: Inode{Mode: kind | uint32(mode)&0o777}}
	if !x.place(n, m) {
		return nil
	}
	uid, _ := m.header.uid() // what cannot be read is 0
	gid, _ := m.header.gid()
	mtime, _ := m.header.mtime()
	n.UID, n.GID, n.Mtime = uint32(uid), uint32(gid), int64(mtime)
	if old := parent.children[name]; old != nil && len(old.children) > 0 {
		x.lost(string(m.path), "everything that earlier entries have below it, which this one replaces")
	}
	parent.put(name, n)
	x.losses(m, mode, uid, gid)
	return nil
}

// hardLink stands for the type of a member that is another name of a file.
const hardLink = 0xffff

// kinds are the types of members that become files. Contiguous files, sparse
// ones and all extensions do not.
var kinds = map[byte]uint32{
	0: modeRegular, '0': modeRegular, '1': hardLink, '2': modeSymlink,
	'3': modeChar, '4': modeBlock, '5': modeDir, '6': modeFIFO,
}

// split cleans a path into its parts; one that leaves the root has none.
func split(path []byte) (parts []string, inside bool) {
	for part := range bytes.SplitSeq(path, []byte{'/'}) {
		switch string(part) {
		case "", ".":
		case "..":
			if len(parts) == 0 {
				return nil, false
			}
			parts = parts[:len(parts)-1]
		default:
			parts = append(parts, string(part))
		}
	}
	return parts, true
}

// whiteOut makes n a character device 0:0; its owner, times and permission bits
// stay.
func (n *node) whiteOut() {
	n.Mode = modeChar | n.Mode&0o777
	n.Size, n.offset, n.children = 0, 0, nil
}

// link gives a regular file another name. Looking for the file makes what is
// missing of its path, and that stays.
func (x *index) link(parent *node, name string, m *member) {
	parts, inside := split(m.link)
	if !inside {
		x.lost(string(m.path), "the hard link, whose target is above the root")
		return
	}
	target := x.walk(parts)
	if !target.IsRegular() {
		x.lost(string(m.path), "the hard link, whose target is no regular file")
		return
	}
	parent.put(name, target)
}

// place sets where the contents of a file are, and says whether it has a place.
func (x *index) place(n *node, m *member) bool {
	switch {
	case n.IsRegular():
		n.Size, n.offset = m.size, m.dataPos
	case n.IsDevice():
		major, minor, err := m.header.device()
		if err != nil {
			x.lost(string(m.path), "the whole device, which has no numbers")
			return false
		}
		n.offset = uint64(minor) | uint64(major)<<32
	case n.IsSymlink():
		if m.link == nil {
			x.lost(string(m.path), "the whole symbolic link, which has no target")
			return false
		}
		n.Size = uint64(len(m.link))
		if bytes.Equal(m.link, m.header.link()) {
			n.offset = m.headerPos + linkField
		} else {
			x.targets = append(x.targets, bytes.Clone(m.link))
			if len(x.targets) > 1 {
				x.lost(string(m.path), "perhaps its target: the format misplaces targets over 100 bytes if there are several")
			}
		}
	}
	return true
}

// unreachable reports the files that a path made below what is no directory: one
// that no entry names, or another kind of file. The index has no place for them.
func (x *index) unreachable() {
	type place struct {
		node      *node
		dir, name string
		hidden    bool
	}
	for rest := []place{{node: &x.root}}; len(rest) > 0; {
		p := rest[len(rest)-1]
		rest = rest[:len(rest)-1]
		if p.hidden && direntType(p.node.Mode) != typeUnknown {
			x.lost(path.Join(p.dir, p.name), "the whole entry, whose parent is no directory that the tar names")
		}
		if len(p.node.children) == 0 {
			continue
		}
		here, hidden := path.Join(p.dir, p.name), p.hidden || !p.node.IsDir()
		for _, name := range slices.Backward(p.node.names()) {
			rest = append(rest, place{p.node.children[name], here, name, hidden})
		}
	}
}

// number gives every node its inode number and its place, breadth first, and
// returns the nodes in that order and where the names begin.
func (x *index) number(base uint64) (order []*node, names uint64) {
	order = append(order, &x.root)
	x.root.Ino = RootIno
	for i := 0; i < len(order); i++ {
		n := order[i]
		if !n.IsDir() {
			continue // whatever a path made below it does not exist
		}
		n.Size = uint64(len(n.children)) * dirEntrySize
		for _, name := range n.names() {
			if c := n.children[name]; c.Ino == 0 {
				order = append(order, c)
				c.Ino = uint64(len(order))
			}
		}
	}
	at := base + uint64(len(order))*inodeSize
	for _, n := range order {
		if n.IsDir() {
			n.offset = at
			at += n.Size
		}
	}
	for _, n := range order {
		if n.IsSymlink() && n.offset == 0 {
			n.offset = at
			at += n.Size
		}
	}
	return order, at
}

// writeTo writes the index of a tar of base bytes, up to the end of its
// superblock, and returns the number of inodes.
func (x *index) writeTo(dst io.Writer, base uint64) (inodes uint64, err error) {
	x.unreachable()
	order, names := x.number(base)
	w := bufio.NewWriterSize(dst, ioSize)
	at := base
	write := func(p []byte) {
		at += uint64(len(p))
		_, _ = w.Write(p) // the error stays and comes out of Flush
	}
	var record []byte
	for _, n := range order {
		record = n.appendTo(record[:0])
		write(record)
	}
	for _, n := range order {
		if !n.IsDir() {
			continue
		}
		for _, name := range n.names() {
			record = appendDirEntry(record[:0], n.children[name], names, len(name))
			names += uint64(len(name))
			write(record)
		}
	}
	for _, target := range x.targets {
		write(target)
	}
	for _, n := range order {
		if !n.IsDir() {
			continue
		}
		for _, name := range n.names() {
			write([]byte(name))
		}
	}
	block := make([]byte, -at&(blockSize-1)+blockSize) // padding and superblock
	binary.LittleEndian.PutUint64(block[len(block)-superblockSize:], base)
	binary.LittleEndian.PutUint64(block[len(block)-superblockSize+8:], uint64(len(order)))
	write(block)
	return uint64(len(order)), w.Flush()
}

func appendDirEntry(b []byte, n *node, name uint64, length int) []byte {
	le := binary.LittleEndian
	b = le.AppendUint64(b, n.Ino)
	b = le.AppendUint64(b, name)
	b = le.AppendUint64(b, uint64(length))
	return append(b, direntType(n.Mode), 0, 0, 0, 0, 0, 0, 0)
}
