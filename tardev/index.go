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
}

// longLink is a symbolic link whose target is in targets.
type longLink struct {
	node  uint32
	start uint64 // of its target
}

func newIndex(tempDir string, lost func(path, what string)) *index {
	return &index{nodes: newNodes(tempDir), targets: spill.New(tempDir, keepNames), lost: lost}
}

// Close gives back the temporary files.
func (x *index) Close() error {
	return errors.Join(x.targets.Close(), x.names.long.Close())
}

// add enters a member of the tar, of which it keeps nothing.
func (x *index) add(m *member) error {
	kind, known := kinds[m.header.typeflag()]
	mode, err := m.header.mode()
	parts, inside := split(x.parts[:0], m.path)
	x.parts = parts
	switch {
	case m.header.typeflag() == 'g':
		return nil // a global extended header is no file
	case !known, err != nil, !inside:
		x.lost(string(m.path), "the whole entry, whose type, mode or path has no place in a layer")
		return nil
	case len(parts) == 0:
		x.losses(m, mode)
		return nil // the root is what it is
	}
	name := parts[len(parts)-1]
	parent := x.walk(parts[:len(parts)-1])
	if hidden, ok := bytes.CutPrefix(name, []byte(".wh.")); ok {
		if string(name) == ".wh..wh..opq" {
			x.of(parent).opaque = true
		} else {
			x.of(x.child(parent, hidden)).whiteOut()
		}
		return x.failed()
	}
	if kind == hardLink {
		x.link(parent, name, m)
		return x.failed()
	}
	n := node{mode: kind | uint16(mode)&0o777}
	if !x.place(&n, m) {
		return x.failed()
	}
	uid, _ := m.header.uid() // what cannot be read is 0
	gid, _ := m.header.gid()
	mtime, _ := m.header.mtime()
	n.uid, n.gid, n.lmtime, n.hmtime = uint32(uid), uint32(gid), uint32(mtime), uint8(mtime>>32)&0xf
	if old := x.find(parent, name); old != 0 && x.of(old).kids != 0 {
		x.lost(string(m.path), "everything that earlier entries have below it, which this one replaces")
	}
	made := x.make(n)
	x.put(parent, name, made)
	if n.isSymlink() && n.offset == 0 {
		x.keepTarget(made, m.link)
	}
	x.losses(m, mode)
	return x.failed()
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

// whiteOut makes n a character device 0:0; its owner, times and permission bits
// stay.
func (n *node) whiteOut() {
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
	x.put(parent, name, target)
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
