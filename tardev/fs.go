package tardev

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"
)

// ErrNotDir says that what should be a directory is none.
var ErrNotDir = errors.New("not a directory")

var (
	errIsDir = errors.New("is a directory")
	errLoop  = errors.New("too many levels of symbolic links")
)

var (
	_ fs.ReadDirFS  = (*FS)(nil)
	_ fs.StatFS     = (*FS)(nil)
	_ fs.ReadLinkFS = (*FS)(nil)
)

// maxSymlinks is how many symbolic links one path may lead through, as in Linux.
const maxSymlinks = 40

// walk finds the inode of a path as fs.ValidPath has it. Symbolic links resolve
// within the layer, absolute ones from its root; the last element's only if
// follow is set.
func (f *FS) walk(name string, follow bool) (Inode, error) {
	if !fs.ValidPath(name) {
		return Inode{}, fs.ErrInvalid
	}
	root, err := f.Inode(RootIno)
	if err != nil {
		return Inode{}, err
	}
	trail := []Inode{root} // the directories from the root to here
	rest := strings.Split(name, "/")
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			trail = trail[:max(1, len(trail)-1)]
			continue
		}
		n, err := f.Lookup(trail[len(trail)-1], part)
		if err != nil {
			return Inode{}, err
		}
		if !n.IsSymlink() || len(rest) == 0 && !follow {
			trail = append(trail, n)
			continue
		}
		if links++; links > maxSymlinks {
			return Inode{}, errLoop
		}
		target, err := f.Readlink(n)
		if err != nil {
			return Inode{}, err
		}
		if strings.HasPrefix(target, "/") {
			trail = trail[:1]
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return trail[len(trail)-1], nil
}

// Open opens a file or directory. Symbolic links resolve within the layer.
func (f *FS) Open(name string) (fs.File, error) {
	n, err := f.walk(name, true)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return &file{fs: f, info: info{name: path.Base(name), inode: n}}, nil
}

// Stat describes a file; symbolic links resolve within the layer.
func (f *FS) Stat(name string) (fs.FileInfo, error) {
	n, err := f.walk(name, true)
	if err != nil {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	return info{name: path.Base(name), inode: n}, nil
}

// Lstat describes a file without following a symbolic link in its last element.
func (f *FS) Lstat(name string) (fs.FileInfo, error) {
	n, err := f.walk(name, false)
	if err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: name, Err: err}
	}
	return info{name: path.Base(name), inode: n}, nil
}

// ReadLink returns the target of a symbolic link as the tar has it.
func (f *FS) ReadLink(name string) (string, error) {
	n, err := f.walk(name, false)
	if err == nil {
		var target string
		if target, err = f.Readlink(n); err == nil {
			return target, nil
		}
	}
	return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
}

// ReadDir lists a directory in ascending order of names.
func (f *FS) ReadDir(name string) ([]fs.DirEntry, error) {
	n, err := f.walk(name, true)
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	d := &file{fs: f, info: info{name: path.Base(name), inode: n}}
	return d.ReadDir(-1)
}

// info is a file as package fs describes it; Sys returns its *Inode.
type info struct {
	name  string
	inode Inode
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return int64(i.inode.Size) }
func (i info) Mode() fs.FileMode  { return i.inode.FileMode() }
func (i info) ModTime() time.Time { return i.inode.ModTime() }
func (i info) IsDir() bool        { return i.inode.IsDir() }
func (i info) Sys() any           { n := i.inode; return &n }

// dirEntry is a name in a directory; its inode is read when asked for.
type dirEntry struct {
	fs    *FS
	entry Entry
}

func (d dirEntry) Name() string { return d.entry.Name }
func (d dirEntry) IsDir() bool  { return d.entry.Type == typeDir }
func (d dirEntry) Type() fs.FileMode {
	n := Inode{Mode: uint32(d.entry.Type) << 12}
	return n.FileMode().Type()
}

func (d dirEntry) Info() (fs.FileInfo, error) {
	n, err := d.fs.existing(d.entry.Ino)
	if err != nil {
		return nil, err
	}
	return info{name: d.entry.Name, inode: n}, nil
}

// file is an open file or directory. Like [os.File] it serves one reader of its
// position at a time, and any number of ReadAt.
type file struct {
	fs   *FS
	info info
	off  int64
	next uint64 // of a directory, the entry that ReadDir returns next
}

func (d *file) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *file) Close() error               { return nil }

func (d *file) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := d.ReadAt(p, d.off)
	d.off += int64(n)
	if n > 0 && err == io.EOF {
		err = nil
	}
	return n, err
}

func (d *file) ReadAt(p []byte, off int64) (int, error) {
	n, err := d.fs.ReadAt(d.info.inode, p, off)
	if err == nil || err == io.EOF {
		return n, err
	}
	if d.info.IsDir() {
		err = errIsDir
	}
	return n, &fs.PathError{Op: "read", Path: d.info.name, Err: err}
}

func (d *file) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += d.off
	case io.SeekEnd:
		off += d.info.Size()
	}
	if off < 0 || whence < 0 || whence > io.SeekEnd {
		return 0, fmt.Errorf("seek %s: %w", d.info.name, fs.ErrInvalid)
	}
	d.off = off
	return off, nil
}

func (d *file) ReadDir(count int) ([]fs.DirEntry, error) {
	var list []fs.DirEntry
	for e, err := range d.fs.Entries(d.info.inode, d.next) {
		if err != nil {
			return list, &fs.PathError{Op: "readdir", Path: d.info.name, Err: err}
		}
		d.next++
		if !ValidName(e.Name) {
			continue
		}
		list = append(list, dirEntry{fs: d.fs, entry: e})
		if len(list) == count {
			return list, nil
		}
	}
	if len(list) == 0 && count > 0 {
		return nil, io.EOF
	}
	return list, nil
}
