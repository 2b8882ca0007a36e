package tardev

import (
	"bytes"
	"errors"

	"github.com/kata-cc/kata-cc/internal/spill"
)

// index grows with the members of a tar into the file system that they describe.
// Its rules are the original's, odd ones included, because every root hash
// depends on them; docs/tardev-format.md lists them.
type index struct {
	*nodes
	// targets are those of the symbolic links whose target the header does not
	// hold, in the order of the tar, replaced links included.
	targets *spill.Buffer
	links   table[longLink]
	lost    func(path, what string)

	parts, linkParts [][]byte // scratch
	headerPath       []byte   // scratch
}

// longLink is a symbolic link whose target is in targets.
type longLink struct {
	node  uint32
	start uint64 // of its target
}

func newIndex(tempDir string, report func(path, what string)) *index {
	lost := func(path, what string) {
		if len(path) > maxLinuxPath { // it may have 1 MiB, and a loss for each record of a header
			path = path[:maxLinuxPath] + "…"
		}
		report(path, what)
	}
	return &index{nodes: newNodes(tempDir), targets: spill.New(tempDir, keepNames), lost: lost}
}

// Close gives back the temporary files.
func (x *index) Close() error {
	return errors.Join(x.targets.Close(), x.names.long.Close())
}

// add enters a member of the tar, of which it keeps nothing.
func (x *index) add(m *member) error {
	if m.header.typeflag() == 'g' {
		return nil // a global extended header is no file
	}
	x.readingLosses(m)
	kind, known := kinds[m.header.typeflag()]
	mode, err := m.header.mode()
	parts, inside := split(x.parts[:0], m.path)
	x.parts = parts
	switch {
	case !known:
		x.lost(string(m.path), "the whole entry, whose type has no place in a layer: "+typeName(m.header.typeflag()))
		return nil
	case err != nil:
		x.lost(string(m.path), "the whole entry, whose mode is no octal number")
		return nil
	case !inside:
		x.lost(string(m.path), "the whole entry, whose path leads out of the layer")
		return nil
	case len(parts) == 0: // the root is what it is
		x.rootLosses(m, mode)
		x.losses(m, mode)
		return nil
	}
	name := parts[len(parts)-1]
	parent := x.walk(parts[:len(parts)-1])
	hidden, whiteout := bytes.CutPrefix(name, []byte(".wh."))
	switch {
	case string(name) == ".wh..wh..opq":
		x.of(parent).flags |= flagOpaque
	case whiteout:
		x.nameLosses(m, hidden)
		x.whiteOut(m, x.child(parent, hidden))
	case kind == hardLink:
		x.link(parent, name, m)
	default:
		x.file(parent, name, m, node{mode: kind | uint16(mode)&0o777}, mode)
	}
	return x.failed()
}

// file enters a member that is no other name of a file.
func (x *index) file(parent uint32, name []byte, m *member, n node, mode uint64) {
	if !x.place(&n, m) {
		return
	}
	uid, _ := m.header.uid() // what cannot be read is 0
	gid, _ := m.header.gid()
	mtime, _ := m.header.mtime()
	n.uid, n.gid, n.lmtime, n.hmtime = uint32(uid), uint32(gid), uint32(mtime), uint8(mtime>>32)&0xf
	made := x.make(n)
	x.replace(parent, name, made, m)
	if n.isSymlink() && n.offset == 0 {
		x.keepTarget(made, m.link)
	}
	x.nameLosses(m, name)
	x.losses(m, mode)
}

// replace gives a node a name, and reports what an earlier node of that name
// takes with it.
func (x *index) replace(parent uint32, name []byte, made uint32, m *member) {
	if e := x.find(parent, name); e != 0 {
		old, n := x.of(e), x.all.at(made)
		if old.kids != 0 && old != n {
			x.lost(string(m.path), "everything that earlier entries have below it, which this one replaces")
		}
		if old.flags&flagOpaque != 0 && n.isDir() {
			x.lost(string(m.path), "that it hides what lower layers have there, which only an earlier entry says")
		}
		if old.isWhiteout() && n.isDir() {
			x.lost(string(m.path), "the whiteout before it: what lower layers have there shows")
		}
	}
	x.put(parent, name, made)
}

// hardLink stands for the type of a member that is another name of a file.
const hardLink = 0xffff

// kinds are the types of members that become files. Contiguous files, sparse
// ones and all extensions do not.
var kinds = map[byte]uint16{
	0: modeRegular, '0': modeRegular, '1': hardLink, '2': modeSymlink,
	'3': modeChar, '4': modeBlock, '5': modeDir, '6': modeFIFO,
}

// split appends the parts of a path, cleaned; one that leaves the root has none.
func split(parts [][]byte, path []byte) (_ [][]byte, inside bool) {
	for len(path) > 0 {
		part, rest, _ := bytes.Cut(path, []byte{'/'})
		path = rest
		switch string(part) {
		case "", ".":
		case "..":
			if len(parts) == 0 {
				return nil, false
			}
			parts = parts[:len(parts)-1]
		default:
			parts = append(parts, part)
		}
	}
	return parts, true
}

// whiteOut makes the node of an entry a character device 0:0; its owner, times and
// permission bits stay.
func (x *index) whiteOut(m *member, e uint32) {
	n := x.of(e)
	switch {
	case n.kids != 0 && n.isDir():
		x.lost(string(m.path), "the directory of that name in the same layer and everything below it")
	case direntType(uint32(n.mode)) != typeUnknown && !n.isWhiteout():
		x.lost(string(m.path), "the file of that name in the same layer")
	case n.kids != 0:
		x.lost(string(m.path), "everything that earlier entries have below that name")
	}
	if n.flags&flagLinked != 0 {
		x.lost(string(m.path), "all hard links to the file of that name: they become whiteouts, too")
	}
	n.mode = modeChar | n.mode&0o777
	n.size, n.offset, n.kids = 0, 0, 0
}

// link gives a regular file another name. Looking for the file makes what is
// missing of its path, and that stays.
func (x *index) link(parent uint32, name []byte, m *member) {
	parts, inside := split(x.linkParts[:0], m.link)
	x.linkParts = parts
	if !inside {
		x.lost(string(m.path), "the hard link, whose target is above the root")
		return
	}
	target := x.entries.at(x.walk(parts)).node
	if !x.all.at(target).isRegular() {
		x.lost(string(m.path), "the hard link, whose target is no regular file")
		return
	}
	x.all.at(target).flags |= flagLinked
	x.replace(parent, name, target, m)
	x.nameLosses(m, name)
}

// place sets where the contents of a file are, and says whether it has a place.
// The offset of a symbolic link whose target the header does not hold stays 0.
func (x *index) place(n *node, m *member) bool {
	switch {
	case n.isRegular():
		n.size, n.offset = m.size, m.dataPos
	case n.isDevice():
		major, minor, err := m.header.device()
		if err != nil {
			x.lost(string(m.path), "the whole device, which has no numbers")
			return false
		}
		n.offset = uint64(minor) | uint64(major)<<32
	case n.isSymlink():
		if m.link == nil {
			x.lost(string(m.path), "the whole symbolic link, which has no target")
			return false
		}
		n.size = uint64(len(m.link))
		if bytes.Equal(m.link, m.header.link()) {
			n.offset = m.headerPos + linkField
		}
	}
	return true
}

// keepTarget keeps the target of a symbolic link for the index.
func (x *index) keepTarget(n uint32, target []byte) {
	_, l := x.links.add()
	l.node, l.start = n, uint64(x.targets.Len())
	if _, err := x.targets.Write(target); err != nil && x.err == nil {
		x.err = err
	}
}
