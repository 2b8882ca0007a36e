package tarfuse

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/kata-cc/kata-cc/tardev"
)

const (
	// cacheTimeout is how long the kernel may keep names and attributes: a layer
	// never changes.
	cacheTimeout = 365 * 24 * time.Hour

	blockSize   = 4096
	opaqueXattr = "trusted.overlay.opaque"

	// dots is the number of entries that a listing begins with: "." and "..".
	dots = 2
)

// raw answers the kernel's requests from a tree. It has no state: opening a file
// has no effect, so the kernel is told to spare itself the request.
type raw struct {
	fuse.RawFileSystem
	tree   tree
	report func(error)
}

func (r *raw) String() string { return "tar" }

// status turns an error into what the kernel passes on. What is neither a wrong
// name nor a wrong use is a layer or device that cannot be read: EIO.
func (r *raw) status(op string, id uint64, err error) fuse.Status {
	switch {
	case err == nil:
		return fuse.OK
	case errors.Is(err, fs.ErrNotExist):
		return fuse.ENOENT
	case errors.Is(err, tardev.ErrNotDir):
		return fuse.ENOTDIR
	case errors.Is(err, fs.ErrInvalid):
		return fuse.EINVAL
	}
	r.report(fmt.Errorf("%s of inode %d: %w", op, id, err))
	return fuse.EIO
}

// fill describes a file to the kernel.
func fill(out *fuse.Attr, id uint64, n *tardev.Inode) {
	major, minor := n.Device()
	*out = fuse.Attr{
		Ino:     id,
		Mode:    n.Mode,
		Size:    n.Size,
		Blocks:  (n.Size + 511) / 512,
		Nlink:   1, // the format does not count links; 1 promises nothing
		Owner:   fuse.Owner{Uid: n.UID, Gid: n.GID},
		Rdev:    encodeDevice(major, minor),
		Blksize: blockSize,
	}
	t := n.ModTime()
	out.SetTimes(&t, &t, &t)
}

// encodeDevice packs device numbers as the kernel's new_encode_dev does. Numbers
// beyond 12 and 20 bits have no encoding; they become those of no device.
func encodeDevice(major, minor uint32) uint32 {
	if major >= 1<<12 || minor >= 1<<20 {
		return math.MaxUint32
	}
	return minor&0xff | major<<8 | (minor&^0xff)<<12
}

func fillEntry(out *fuse.EntryOut, id uint64, n *tardev.Inode) {
	out.NodeId = id
	out.SetEntryTimeout(cacheTimeout)
	out.SetAttrTimeout(cacheTimeout)
	fill(&out.Attr, id, n)
}

func (r *raw) Lookup(_ <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	id, n, err := r.tree.lookup(header.NodeId, name)
	if errors.Is(err, fs.ErrNotExist) {
		out.SetEntryTimeout(cacheTimeout) // node id 0: the kernel remembers that there is none
		return fuse.OK
	}
	if err != nil {
		return r.status(fmt.Sprintf("lookup of %q", name), header.NodeId, err)
	}
	fillEntry(out, id, &n)
	return fuse.OK
}

func (r *raw) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	n, err := r.tree.inode(in.NodeId)
	if err != nil {
		return r.status("getattr", in.NodeId, err)
	}
	out.SetTimeout(cacheTimeout)
	fill(&out.Attr, in.NodeId, &n)
	return fuse.OK
}

func (r *raw) Readlink(_ <-chan struct{}, header *fuse.InHeader) ([]byte, fuse.Status) {
	target, err := r.tree.readlink(header.NodeId)
	return []byte(target), r.status("readlink", header.NodeId, err)
}

func (r *raw) GetXAttr(_ <-chan struct{}, header *fuse.InHeader, attr string, dest []byte) (uint32, fuse.Status) {
	if attr != opaqueXattr || !r.tree.xattrs() {
		return 0, fuse.ENOATTR
	}
	n, err := r.tree.inode(header.NodeId)
	if err != nil {
		return 0, r.status("getxattr", header.NodeId, err)
	}
	if !n.IsDir() || !n.Opaque {
		return 0, fuse.ENOATTR
	}
	return answer(dest, "y")
}

func (r *raw) ListXAttr(_ <-chan struct{}, header *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	n, err := r.tree.inode(header.NodeId)
	if err != nil {
		return 0, r.status("listxattr", header.NodeId, err)
	}
	if !n.IsDir() || !n.Opaque || !r.tree.xattrs() {
		return 0, fuse.OK
	}
	return answer(dest, opaqueXattr+"\x00")
}

// answer copies the value of an extended attribute out. If there is no room, the
// kernel hears the length.
func answer(dest []byte, value string) (uint32, fuse.Status) {
	if len(dest) < len(value) {
		return uint32(len(value)), fuse.ERANGE
	}
	return uint32(copy(dest, value)), fuse.OK
}

// Open and OpenDir answer ENOSYS, which is success to the kernel: it keeps what
// it has cached and does not ask again.
func (r *raw) Open(_ <-chan struct{}, _ *fuse.OpenIn, _ *fuse.OpenOut) fuse.Status {
	return fuse.ENOSYS
}

func (r *raw) OpenDir(_ <-chan struct{}, _ *fuse.OpenIn, _ *fuse.OpenOut) fuse.Status {
	return fuse.ENOSYS
}

func (r *raw) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	if in.Offset > math.MaxInt64 {
		return nil, fuse.EINVAL
	}
	n, err := r.tree.readAt(in.NodeId, buf, int64(in.Offset))
	if err != nil && err != io.EOF {
		return nil, r.status("read", in.NodeId, err)
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

func (r *raw) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return r.list(in, out.AddDirEntry)
}

func (r *raw) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return r.list(in, func(e fuse.DirEntry) bool {
		entry := out.AddDirLookupEntry(e)
		if entry == nil {
			return false
		}
		if e.Off <= dots || e.Mode == 0 {
			return true // node id 0: a name without attributes
		}
		if n, err := r.tree.inode(e.Ino); err == nil && n.Mode&syscall.S_IFMT != 0 {
			fillEntry(entry, e.Ino, &n)
		}
		return true
	})
}

// list gives add the entries of a directory from in.Offset on until it has no
// room. The entry at index i, after the two dots, has offset i + dots + 1.
func (r *raw) list(in *fuse.ReadIn, add func(fuse.DirEntry) bool) fuse.Status {
	for i := in.Offset; i < dots; i++ {
		e := fuse.DirEntry{Name: "..", Mode: syscall.S_IFDIR, Off: i + 1}
		if i == 0 {
			e.Name, e.Ino = ".", in.NodeId
		}
		if !add(e) {
			return fuse.OK
		}
	}
	at := max(in.Offset, dots)
	for n, err := range r.tree.entries(in.NodeId, at-dots) {
		if err != nil {
			return r.status("readdir", in.NodeId, err)
		}
		at++
		if !tardev.ValidName(n.name) {
			r.report(fmt.Errorf("directory %d: name %.80q cannot exist in Linux, left out", in.NodeId, n.name))
			continue
		}
		if !add(fuse.DirEntry{Name: n.name, Mode: uint32(n.typ) << 12, Ino: n.id, Off: at}) {
			return fuse.OK
		}
	}
	return fuse.OK
}

func (r *raw) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	bytes, inodes := r.tree.usage()
	out.Bsize, out.Frsize, out.NameLen = blockSize, blockSize, 255
	out.Blocks, out.Files = bytes/blockSize, inodes
	return fuse.OK
}
