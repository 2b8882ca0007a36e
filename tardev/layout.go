package tardev

import (
	"bufio"
	"encoding/binary"
	"io"
	"sort"
)

// layout is the order in which an index is written.
type layout struct {
	*index
	order  []uint32 // nodes by inode number, of which the first is 1
	listed []uint32 // entries as they are in directories: by directory, by name
	end    uint64   // of the directory entries: where targets begin
	names  uint64   // where names begin, by what the directories say
}

// number gives every node that can be reached its inode number and its place,
// breadth first.
func (x *index) number(base uint64) *layout {
	l := &layout{
		index:  x,
		order:  make([]uint32, 0, x.all.n),
		listed: make([]uint32, 0, x.entries.n),
	}
	visit := func(e uint32) {
		if n := x.of(e); n.ino == 0 {
			l.order = append(l.order, x.entries.at(e).node)
			n.ino = uint32(len(l.order))
		}
	}
	visit(rootEntry)
	for i := 0; i < len(l.order); i++ {
		n := x.all.at(l.order[i])
		if !n.isDir() {
			continue // whatever a path made below it does not exist
		}
		from := len(l.listed)
		l.listed = x.appendChildren(l.listed, n)
		for _, e := range l.listed[from:] {
			visit(e)
		}
		n.size = uint64(len(l.listed)-from) * dirEntrySize
	}
	l.end = base + uint64(len(l.order))*inodeSize
	for _, i := range l.order {
		if n := x.all.at(i); n.isDir() {
			n.offset = l.end
			l.end += n.size
		}
	}
	l.names = l.end
	for _, i := range l.order {
		if n := x.all.at(i); n.isSymlink() && n.offset == 0 {
			n.offset = l.names
			l.names += n.size
		}
	}
	return l
}

// misplaced reports the symbolic links that will not have their own targets: their
// places go by the tree, and what is there by the tar. If the two do not even have
// the same length, no name is what it should be.
func (l *layout) misplaced() {
	if l.links.n == 0 {
		return
	}
	for _, e := range l.listed {
		n := l.of(e)
		if !n.isSymlink() || n.offset < l.end {
			continue
		}
		id := l.entries.at(e).node
		i := uint32(1 + sort.Search(int(l.links.n)-1, func(i int) bool { return l.links.at(uint32(i+1)).node >= id }))
		if n.offset != l.end+l.links.at(i).start {
			l.lost(l.path(e), "its target: the format misplaces targets that the tar's header has no room for if there are several")
		}
	}
	if l.names != l.end+uint64(l.targets.Len()) {
		l.lost("/", "the names of all files: the format misplaces them if a symbolic link, whose target the tar's header has no room for, is replaced or cannot be reached")
	}
}

// unreachable reports the files that a path made below what is no directory: one
// that no entry names, or another kind of file. The index has no place for them.
func (l *layout) unreachable() {
	for _, e := range l.listed {
		if n := l.of(e); !n.isDir() && n.kids != 0 {
			l.hidden(l.path(e), n)
		}
	}
}

// hidden reports what is below a node. It forgets the children of each as it goes:
// a file may have a hard link to itself below it.
func (l *layout) hidden(path string, n *node) {
	type place struct {
		dir int    // length of its directory's path
		e   uint32 // in it
	}
	var rest []place
	here := []byte(path)
	enter := func(n *node) {
		children := l.appendChildren(nil, n)
		n.kids = 0
		for i := len(children) - 1; i >= 0; i-- {
			rest = append(rest, place{len(here), children[i]})
		}
	}
	for enter(n); len(rest) > 0; {
		p := rest[len(rest)-1]
		rest = rest[:len(rest)-1]
		here = l.nodes.names.appendTo(append(here[:p.dir], '/'), l.entries.at(p.e).name)
		n := l.of(p.e)
		if direntType(uint32(n.mode)) != typeUnknown {
			l.lost(string(here), "the whole entry, whose parent is no directory that the tar names")
		}
		enter(n)
	}
}

// writeTo writes the index of a tar of base bytes, up to the end of its
// superblock, and returns the number of inodes.
func (x *index) writeTo(dst io.Writer, base uint64) (inodes uint64, err error) {
	l := x.number(base)
	l.misplaced()
	l.unreachable()
	w := bufio.NewWriterSize(dst, ioSize) // an error stays and comes out of Flush
	record := make([]byte, 0, max(inodeSize, dirEntrySize))
	for _, i := range l.order {
		n := x.all.at(i).inode()
		record = n.appendTo(record[:0])
		_, _ = w.Write(record)
	}
	at := l.names
	for _, e := range l.listed {
		length := x.entries.at(e).name.length()
		record = appendDirEntry(record[:0], x.of(e), at, length)
		at += uint64(length)
		_, _ = w.Write(record)
	}
	if _, err := x.targets.WriteTo(w); err != nil {
		return 0, err
	}
	for _, e := range l.listed {
		x.names.writeTo(w, x.entries.at(e).name)
	}
	at += l.end + uint64(x.targets.Len()) - l.names    // what was written, not what was said
	block := make([]byte, -at&(blockSize-1)+blockSize) // padding and superblock
	binary.LittleEndian.PutUint64(block[len(block)-superblockSize:], base)
	binary.LittleEndian.PutUint64(block[len(block)-superblockSize+8:], uint64(len(l.order)))
	_, _ = w.Write(block)
	if err := x.failed(); err != nil {
		return 0, err
	}
	return uint64(len(l.order)), w.Flush()
}

func appendDirEntry(b []byte, n *node, name uint64, length int) []byte {
	le := binary.LittleEndian
	b = le.AppendUint64(b, uint64(n.ino))
	b = le.AppendUint64(b, name)
	b = le.AppendUint64(b, uint64(length))
	return append(b, direntType(uint32(n.mode)), 0, 0, 0, 0, 0, 0, 0)
}
