// Package copyfile writes the files which the host sends in pieces. A file is
// seen under its name only when it is whole.
package copyfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

// incoming begins the names of files of which pieces are missing.
const incoming = ".incoming-"

// MaxSize is the largest file taken; it would lie in guest memory.
const MaxSize = 256 << 20

// Files takes files below one directory.
type Files struct {
	dir string

	mu      sync.Mutex
	pending map[string]*pending // by path below dir
	names   uint64              // temporary names given so far
}

// pending is a file of which pieces are missing.
type pending struct {
	busy bool   // a piece is being written
	temp string // in the file's directory
	have int64
	size int64
}

// New takes files below dir, an absolute path; it need not exist yet.
func New(dir string) *Files {
	return &Files{dir: dir, pending: make(map[string]*pending)}
}

// Copy takes a piece of a file, a whole directory or a symbolic link. Pieces
// come in order; one at offset 0 begins the file anew.
func (f *Files) Copy(_ context.Context, r *agentpb.CopyFileRequest) error {
	name, err := f.below(r.GetPath())
	if err != nil {
		return err
	}
	if err := f.copy(name, r); err != nil {
		return fmt.Errorf("copy file %s: %w", r.GetPath(), err)
	}
	return nil
}

// below is the path below the directory, or an error if it is not.
func (f *Files) below(p string) (string, error) {
	name, ok := strings.CutPrefix(p, f.dir+"/")
	if !ok || path.Clean(p) != p || name == "" || strings.ContainsRune(p, 0) {
		return "", fmt.Errorf("Path %q does not start with %s, or is not plain: %w", p, f.dir, errdefs.ErrInvalidArgument)
	}
	return name, nil
}

func (f *Files) copy(name string, r *agentpb.CopyFileRequest) error {
	root, err := f.parent(path.Dir(name), perm(r.GetDirMode()))
	if err != nil {
		return err
	}
	defer root.Close()
	base := path.Base(name)
	if strings.HasPrefix(base, incoming) {
		return fmt.Errorf("names that begin with %s are taken: %w", incoming, errdefs.ErrInvalidArgument)
	}
	switch r.GetFileMode() & unix.S_IFMT {
	case unix.S_IFDIR:
		return directory(root, base, r)
	case unix.S_IFLNK:
		if err := link(root, base, f.temporary(), r); err != nil || base != versionLink {
			return err
		}
		return f.tidy(root, path.Dir(name), string(r.GetData()))
	case unix.S_IFREG, 0:
		return f.piece(root, name, r)
	}
	return fmt.Errorf("mode %o is neither a file's, a directory's nor a link's: %w", r.GetFileMode(), errdefs.ErrInvalidArgument)
}

// directory makes a directory, or gives one that is there owner and mode.
func directory(root *os.Root, base string, r *agentpb.CopyFileRequest) error {
	dir, err := root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	fd, _, err := enter(int(dir.Fd()), base)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := os.Chown(procFD(fd), int(r.GetUid()), int(r.GetGid())); err != nil {
		return err
	}
	return os.Chmod(procFD(fd), perm(r.GetFileMode()))
}

// link makes a symbolic link in the place of whatever has the name. The target
// may point anywhere: who follows it does so inside a container.
func link(root *os.Root, name, temp string, r *agentpb.CopyFileRequest) error {
	if err := root.Symlink(string(r.GetData()), temp); err != nil {
		return err
	}
	if err := root.Lchown(temp, int(r.GetUid()), int(r.GetGid())); err != nil {
		return errors.Join(err, root.Remove(temp))
	}
	if err := root.Rename(temp, name); err != nil {
		return errors.Join(err, root.Remove(temp))
	}
	return nil
}

// piece writes a piece of a file, in the directory root, and gives the file its
// name with the last one.
func (f *Files) piece(root *os.Root, name string, r *agentpb.CopyFileRequest) (err error) {
	p, err := f.begin(name, r)
	if err != nil {
		return err
	}
	done := false
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		p.busy = false
		if done || err != nil {
			delete(f.pending, name)
		}
	}()
	if err := write(root, p.temp, r); err != nil {
		return errors.Join(err, remove(root, p.temp))
	}
	p.have += int64(len(r.GetData()))
	if p.have < p.size {
		return nil
	}
	done = true
	if err := own(root, p.temp, r); err != nil {
		return errors.Join(err, remove(root, p.temp))
	}
	if err := root.Rename(p.temp, path.Base(name)); err != nil {
		return errors.Join(err, remove(root, p.temp))
	}
	return nil
}

// temporary is a name for what is not whole yet.
func (f *Files) temporary() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.temporaryLocked()
}

func (f *Files) temporaryLocked() string {
	f.names++
	return incoming + strconv.FormatUint(f.names, 10)
}

// begin finds the file which a piece belongs to.
func (f *Files) begin(name string, r *agentpb.CopyFileRequest) (*pending, error) {
	size, offset, n := r.GetFileSize(), r.GetOffset(), int64(len(r.GetData()))
	if size < 0 || size > MaxSize || offset < 0 || offset+n > size {
		return nil, fmt.Errorf("piece of %d bytes at %d of a file of %d bytes (at most %d): %w", n, offset, size, MaxSize, errdefs.ErrInvalidArgument)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.pending[name]
	if p != nil && p.busy {
		return nil, fmt.Errorf("another piece is being written: %w", errdefs.ErrFailedPrecondition)
	}
	if offset == 0 {
		if p == nil {
			p = &pending{temp: f.temporaryLocked()}
			f.pending[name] = p
		}
		p.have, p.size = 0, size
	}
	if p == nil || p.have != offset || p.size != size {
		return nil, fmt.Errorf("piece at %d does not follow what is there of it: %w", offset, errdefs.ErrFailedPrecondition)
	}
	p.busy = true
	return p, nil
}

func write(root *os.Root, temp string, r *agentpb.CopyFileRequest) error {
	flags := os.O_WRONLY | os.O_CREATE
	if r.GetOffset() == 0 {
		flags |= os.O_TRUNC
	}
	file, err := root.OpenFile(temp, flags, 0o600)
	if err != nil {
		return err
	}
	_, err = file.WriteAt(r.GetData(), r.GetOffset())
	return errors.Join(err, file.Close())
}

func remove(root *os.Root, name string) error {
	if err := root.Remove(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// own sets owner and mode; the owner first, since changing it clears bits of the mode.
func own(root *os.Root, name string, r *agentpb.CopyFileRequest) error {
	if err := root.Chown(name, int(r.GetUid()), int(r.GetGid())); err != nil {
		return err
	}
	return root.Chmod(name, perm(r.GetFileMode()))
}

// perm turns a mode of stat(2) into Go's; further bits are dropped.
func perm(mode uint32) os.FileMode {
	m := os.FileMode(mode & 0o777)
	for bit, flag := range map[uint32]os.FileMode{unix.S_ISUID: os.ModeSetuid, unix.S_ISGID: os.ModeSetgid, unix.S_ISVTX: os.ModeSticky} {
		if mode&bit != 0 {
			m |= flag
		}
	}
	return m
}
