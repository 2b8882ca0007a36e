package tarfuse

import (
	"iter"

	"github.com/kata-cc/kata-cc/tardev"
)

// tree is what a server shows: files under node ids, of which the root's is 1. A
// node id stands for the same file as long as the tree is served.
type tree interface {
	inode(id uint64) (tardev.Inode, error)
	// lookup returns the node id of a name and its inode.
	lookup(dir uint64, name string) (uint64, tardev.Inode, error)
	// entries yields what a directory has from the i-th entry on, as node id and
	// entry.
	entries(dir uint64, from uint64) iter.Seq2[node, error]
	readlink(id uint64) (string, error)
	readAt(id uint64, p []byte, off int64) (int, error)
	// xattrs says whether the flags of directories show as extended attributes.
	xattrs() bool
	// usage returns the size in bytes and the number of inodes of everything.
	usage() (bytes, inodes uint64)
}

// node is one entry of a directory of a tree.
type node struct {
	id   uint64
	name string
	typ  byte // as dirent(3) has it
}

// single is the tree of one layer: node ids are inode numbers.
type single struct{ fs *tardev.FS }

func (s single) inode(id uint64) (tardev.Inode, error) {
	n, err := s.fs.Inode(id)
	return s.withSetID(n, err)
}

// withSetID adds to a program's mode the bits that the index has not. Whether
// they take effect is up to the mount that shows the layers as one: this one is
// nosuid.
func (s single) withSetID(n tardev.Inode, err error) (tardev.Inode, error) {
	if err != nil {
		return n, err
	}
	bits, err := s.fs.SetID(n)
	n.Mode |= bits
	return n, err
}

func (s single) lookup(dir uint64, name string) (uint64, tardev.Inode, error) {
	d, err := s.fs.Inode(dir)
	if err != nil {
		return 0, tardev.Inode{}, err
	}
	n, err := s.withSetID(s.fs.Lookup(d, name))
	return n.Ino, n, err
}

func (s single) entries(dir uint64, from uint64) iter.Seq2[node, error] {
	return func(yield func(node, error) bool) {
		d, err := s.fs.Inode(dir)
		if err != nil {
			yield(node{}, err)
			return
		}
		for e, err := range s.fs.Entries(d, from) {
			if !yield(node{e.Ino, e.Name, e.Type}, err) {
				return
			}
		}
	}
}

func (s single) readlink(id uint64) (string, error) {
	n, err := s.fs.Inode(id)
	if err != nil {
		return "", err
	}
	return s.fs.Readlink(n)
}

func (s single) readAt(id uint64, p []byte, off int64) (int, error) {
	n, err := s.fs.Inode(id)
	if err != nil {
		return 0, err
	}
	return s.fs.ReadAt(n, p, off)
}

func (s single) xattrs() bool { return true }

func (s single) usage() (uint64, uint64) { return uint64(s.fs.Size()), s.fs.Inodes() }
