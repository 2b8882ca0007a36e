package tardev

import (
	"errors"
	"hash/maphash"
	"slices"
)

// maxNodes bounds how many files one layer can make this program keep in memory:
// at some 100 bytes each, 1.6 GiB.
const maxNodes = 1 << 24

var errTooMany = errors.New("more files and directories than a layer may have")

// node is a file while the index is built. Its offset and size are final for all
// but directories and long symbolic links. It takes 40 bytes.
type node struct {
	mode     uint16
	flags    uint8
	hmtime   uint8 // bits 32..35 of the time
	uid, gid uint32
	lmtime   uint32
	ino      uint32 // 0 until it is numbered
	kids     uint32 // its list of children, 0 for none
	size     uint64
	offset   uint64
}

// flagLinked is the flag of a node with several names. Unlike flagOpaque it is not
// written.
const flagLinked = 0x80

func (n *node) isDir() bool     { return n.mode&modeType == modeDir }
func (n *node) isRegular() bool { return n.mode&modeType == modeRegular }
func (n *node) isWhiteout() bool {
	return n.mode&modeType == modeChar && n.offset == 0
}
func (n *node) isDevice() bool {
	return n.mode&modeType == modeChar || n.mode&modeType == modeBlock
}
func (n *node) isSymlink() bool { return n.mode&modeType == modeSymlink }

// inode returns the node as the inode table has it.
func (n *node) inode() Inode {
	return Inode{
		Ino: uint64(n.ino), Mode: uint32(n.mode), Opaque: n.flags&flagOpaque != 0, UID: n.uid, GID: n.gid,
		Mtime: int64(n.hmtime&0xf)<<32 | int64(n.lmtime), Size: n.size, offset: n.offset,
	}
}

// entry is a name of a node in a list of children. It takes 28 bytes.
type entry struct {
	name name
	hash uint32
	list uint32
	node uint32
	next uint32 // in the list
	same uint32 // next with the same bucket
}

// siblings are the children of a node. A node whose children are dropped gets another
// list when it gets others.
type siblings struct {
	first uint32 // entry; the last that was made comes first
	owner uint32 // entry of the node
}

// nodes is the tree of files while an index is built. It is made for a million of
// them: tables of numbers and one hash table for the names of all directories.
type nodes struct {
	all     table[node]
	entries table[entry]
	lists   table[siblings]
	names   names
	seed    maphash.Seed
	buckets []uint32 // entries
	limit   uint32   // of the number of nodes
	err     error
}

// rootEntry is the entry of the root.
const rootEntry = 1

func newNodes(tempDir string) *nodes {
	t := &nodes{names: newNames(tempDir), seed: maphash.MakeSeed(), buckets: make([]uint32, 256), limit: maxNodes}
	_, e := t.entries.add()
	e.node, e.name = t.make(node{mode: modeDir | 0o555}), t.names.add(nil)
	return t
}

// of returns the node of an entry.
func (t *nodes) of(e uint32) *node { return t.all.at(t.entries.at(e).node) }

func (t *nodes) make(n node) uint32 {
	if t.all.n > t.limit && t.err == nil {
		t.err = errTooMany
	}
	i, at := t.all.add()
	*at = n
	return i
}

func (t *nodes) hash(list uint32, name []byte) uint32 {
	h := maphash.Bytes(t.seed, name) ^ uint64(list)*0x9e3779b97f4a7c15
	return uint32(h ^ h>>32)
}

// find returns the entry of a name in a directory, 0 if there is none.
func (t *nodes) find(dir uint32, name []byte) uint32 {
	list := t.of(dir).kids
	if list == 0 {
		return 0
	}
	return t.lookup(list, name, t.hash(list, name))
}

func (t *nodes) lookup(list uint32, name []byte, hash uint32) uint32 {
	for i := t.buckets[hash&uint32(len(t.buckets)-1)]; i != 0; {
		e := t.entries.at(i)
		if e.hash == hash && e.list == list && t.names.is(e.name, name) {
			return i
		}
		i = e.same
	}
	return 0
}

// put gives a node a name in a directory, in place of another that has it.
func (t *nodes) put(dir uint32, name []byte, n uint32) uint32 {
	d := t.of(dir)
	if d.kids == 0 {
		i, l := t.lists.add()
		l.owner, d.kids = dir, i
	}
	hash := t.hash(d.kids, name)
	if i := t.lookup(d.kids, name, hash); i != 0 {
		t.entries.at(i).node = n
		return i
	}
	l := t.lists.at(d.kids)
	i, e := t.entries.add()
	bucket := &t.buckets[hash&uint32(len(t.buckets)-1)]
	*e = entry{name: t.names.add(name), hash: hash, list: d.kids, node: n, next: l.first, same: *bucket}
	l.first, *bucket = i, i
	if int(t.entries.n) > len(t.buckets) {
		t.grow()
	}
	return i
}

// grow doubles the hash table.
func (t *nodes) grow() {
	t.buckets = make([]uint32, 2*len(t.buckets))
	for i := uint32(rootEntry + 1); i < t.entries.n; i++ {
		e := t.entries.at(i)
		bucket := &t.buckets[e.hash&uint32(len(t.buckets)-1)]
		e.same, *bucket = *bucket, i
	}
}

// child returns the entry of a name in a directory, made without a type if there
// is none.
func (t *nodes) child(dir uint32, name []byte) uint32 {
	if i := t.find(dir, name); i != 0 {
		return i
	}
	return t.put(dir, name, t.make(node{}))
}

// walk returns the entry of a path from the root; what is not there is made
// without a type.
func (t *nodes) walk(parts [][]byte) uint32 {
	e := uint32(rootEntry)
	for _, part := range parts {
		e = t.child(e, part)
	}
	return e
}

// appendChildren appends the entries of a node's children in ascending order of
// names.
func (t *nodes) appendChildren(to []uint32, n *node) []uint32 {
	if n.kids == 0 {
		return to
	}
	from := len(to)
	for i := t.lists.at(n.kids).first; i != 0; i = t.entries.at(i).next {
		to = append(to, i)
	}
	children := to[from:]
	slices.Reverse(children) // most tars are in order already
	slices.SortFunc(children, func(a, b uint32) int {
		return t.names.compare(t.entries.at(a).name, t.entries.at(b).name)
	})
	return to
}

// path returns the path from the root of an entry that is reachable.
func (t *nodes) path(e uint32) string {
	var up []uint32
	for ; e != rootEntry; e = t.lists.at(t.entries.at(e).list).owner {
		up = append(up, e)
	}
	var path []byte
	for i, e := range slices.Backward(up) {
		path = t.names.appendTo(path, t.entries.at(e).name)
		if i > 0 {
			path = append(path, '/')
		}
	}
	return string(path)
}

// failed returns the first error of anything done so far.
func (t *nodes) failed() error {
	if t.err != nil {
		return t.err
	}
	return t.names.err
}
