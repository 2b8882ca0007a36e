package tarfuse

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math"
	"sync"

	"github.com/kata-cc/kata-cc/tardev"
)

// inoBits is how many bits of a union's node id are the inode number; those above
// are the layer's. The root of the top layer is node 1.
const inoBits = 48

// union is the tree of several layers stacked as overlayfs stacks them: what an
// upper layer has hides what is below, directories merge, whiteouts and opaque
// directories take away. It keeps in memory which directories merge, of those that
// were seen, and the last listings.
type union struct {
	layers []*tardev.FS // top first

	mu       sync.Mutex
	dirs     map[uint64][]uint64 // node id of a directory to those that merge in it, top first
	listings map[uint64][]node
	listed   int // nodes in listings
	keep     int // how many may be, unless one listing has more
}

// maxListed is how many nodes of listings a union keeps: some 64 MiB. A listing
// that it drops comes out the same when it is made again.
const maxListed = 1 << 19

// MountUnion mounts layers, the top one first, as one tree at dir. In all else it
// does what [Mount] does; the file system type is fuse.kata-overlay.
func MountUnion(layers []*tardev.FS, dir string, o Options) (*Server, error) {
	u, err := newUnion(layers)
	if err != nil {
		return nil, err
	}
	return serve(u, "kata-overlay", dir, o)
}

func newUnion(layers []*tardev.FS) (*union, error) {
	if len(layers) == 0 || len(layers) > math.MaxUint16 {
		return nil, fmt.Errorf("union of %d layers: %w", len(layers), fs.ErrInvalid)
	}
	u := &union{layers: layers, dirs: map[uint64][]uint64{}, listings: map[uint64][]node{}, keep: maxListed}
	var roots []uint64
	for i, l := range layers {
		root, err := l.Inode(tardev.RootIno)
		if err != nil {
			return nil, err
		}
		roots = append(roots, nodeID(i, tardev.RootIno))
		if root.Opaque {
			break
		}
	}
	u.dirs[roots[0]] = roots
	return u, nil
}

func nodeID(layer int, ino uint64) uint64 { return uint64(layer)<<inoBits | ino }

// at returns the layer and the inode of a node id.
func (u *union) at(id uint64) (*tardev.FS, tardev.Inode, error) {
	layer := int(id >> inoBits)
	if layer >= len(u.layers) {
		return nil, tardev.Inode{}, fs.ErrInvalid
	}
	n, err := u.layers[layer].Inode(id & (1<<inoBits - 1))
	return u.layers[layer], n, err
}

func (u *union) inode(id uint64) (tardev.Inode, error) {
	_, n, err := u.at(id)
	return n, err
}

// merged returns the directories that merge in one.
func (u *union) merged(dir uint64) ([]uint64, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if ids, ok := u.dirs[dir]; ok {
		return ids, nil
	}
	return nil, tardev.ErrNotDir
}

func (u *union) lookup(dir uint64, name string) (uint64, tardev.Inode, error) {
	ids, err := u.merged(dir)
	if err != nil {
		return 0, tardev.Inode{}, err
	}
	var found []uint64
	var first tardev.Inode
	for _, id := range ids {
		fsys, d, err := u.at(id)
		if err != nil {
			return 0, tardev.Inode{}, err
		}
		n, err := fsys.Lookup(d, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, tardev.Inode{}, err
		}
		if n.Ino >= 1<<inoBits {
			return 0, tardev.Inode{}, fmt.Errorf("inode %d: %w", n.Ino, tardev.ErrCorrupt)
		}
		if !n.IsDir() {
			if len(found) == 0 && !n.IsWhiteout() {
				return nodeID(int(id>>inoBits), n.Ino), n, nil
			}
			break // it hides, and is hidden
		}
		if len(found) == 0 {
			first = n
		}
		found = append(found, nodeID(int(id>>inoBits), n.Ino))
		if n.Opaque {
			break
		}
	}
	if len(found) == 0 {
		return 0, tardev.Inode{}, fs.ErrNotExist
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.dirs[found[0]] = found
	return found[0], first, nil
}

func (u *union) entries(dir uint64, from uint64) iter.Seq2[node, error] {
	return func(yield func(node, error) bool) {
		list, err := u.listing(dir)
		if err != nil {
			yield(node{}, err)
			return
		}
		for i := from; i < uint64(len(list)); i++ {
			if !yield(list[i], nil) {
				return
			}
		}
	}
}

// listing returns the names of a merged directory, the same each time.
func (u *union) listing(dir uint64) ([]node, error) {
	u.mu.Lock()
	list, ok := u.listings[dir]
	u.mu.Unlock()
	if ok {
		return list, nil
	}
	ids, err := u.merged(dir)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, id := range ids {
		fsys, d, err := u.at(id)
		if err != nil {
			return nil, err
		}
		for e, err := range fsys.Entries(d, 0) {
			if err != nil {
				return nil, err
			}
			if seen[e.Name] || e.Type == 0 {
				continue
			}
			seen[e.Name] = true
			// Looking it up settles whether it is a whiteout and, for a
			// directory, what merges in it.
			id, n, err := u.lookup(dir, e.Name)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, err
			}
			list = append(list, node{id, e.Name, byte(n.Mode >> 12)})
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, ok := u.listings[dir]; !ok {
		if u.listed += len(list); u.listed > u.keep {
			clear(u.listings)
			u.listed = len(list)
		}
	}
	u.listings[dir] = list
	return list, nil
}

func (u *union) readlink(id uint64) (string, error) {
	fsys, n, err := u.at(id)
	if err != nil {
		return "", err
	}
	return fsys.Readlink(n)
}

func (u *union) readAt(id uint64, p []byte, off int64) (int, error) {
	fsys, n, err := u.at(id)
	if err != nil {
		return 0, err
	}
	return fsys.ReadAt(n, p, off)
}

func (u *union) xattrs() bool { return false }

func (u *union) usage() (bytes, inodes uint64) {
	for _, l := range u.layers {
		bytes += uint64(l.Size())
		inodes += l.Inodes()
	}
	return bytes, inodes
}
