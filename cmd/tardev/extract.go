package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/tardev"
	"github.com/kata-cc/kata-cc/verity"
)

// extract unpacks a layer into a directory that it makes. Nothing is written
// outside of it, whatever the layer says. On error the directory is removed.
func extract(file, dir, rootHash string, stderr io.Writer) (err error) {
	l, err := openLayer(file)
	if err != nil {
		return err
	}
	defer l.file.Close()
	var data io.ReaderAt = l.file
	if rootHash != "" {
		if data, err = verity.NewReader(l.file, l.size, rootHash); err != nil {
			return fmt.Errorf("extract %s: %w", file, err)
		}
	}
	if rootHash == "" {
		fmt.Fprintf(stderr, "warning: %s: not checked, for want of a root hash\n", file)
	}
	fsys, err := tardev.Open(data, l.data)
	if err != nil {
		return fmt.Errorf("extract %s: %w", file, err)
	}
	if err = os.Mkdir(dir, 0o755); err != nil {
		return fmt.Errorf("extract %s: %w", file, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return errors.Join(err, os.Remove(dir))
	}
	x := &extraction{fsys: fsys, root: root, stderr: stderr, first: map[uint64]string{}, owns: os.Geteuid() == 0}
	err = errors.Join(fs.WalkDir(fsys, ".", x.visit), x.finish(), root.Close())
	if err != nil {
		return errors.Join(fmt.Errorf("extract %s: %w", file, err), os.RemoveAll(dir))
	}
	return nil
}

// extraction is one run of extract.
type extraction struct {
	fsys   *tardev.FS
	root   *os.Root
	stderr io.Writer
	owns   bool              // owners and devices can be made
	first  map[uint64]string // the first name of a file, by inode number
	dirs   []directory       // in the order they were met: parents first
}

// directory is one whose mode and time are set when everything is in it.
type directory struct {
	name  string
	inode *tardev.Inode
}

func (x *extraction) visit(name string, _ fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	info, err := x.fsys.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // implied by its children only: no file system shows it
	}
	if err != nil {
		return err
	}
	n := info.Sys().(*tardev.Inode)
	first, again := x.first[n.Ino]
	if again && n.IsDir() {
		return fmt.Errorf("%w: %s and %s are one directory", tardev.ErrCorrupt, first, name)
	}
	if again {
		return x.root.Link(first, name)
	}
	made, err := x.create(name, n)
	if err != nil || !made {
		return err
	}
	x.first[n.Ino] = name
	if n.IsDir() {
		x.dirs = append(x.dirs, directory{name, n})
		return nil
	}
	return x.attributes(name, n)
}

// create makes the file of an inode and says whether it did.
func (x *extraction) create(name string, n *tardev.Inode) (bool, error) {
	switch {
	case n.IsDir():
		if name == "." {
			return true, nil
		}
		return true, x.root.Mkdir(name, 0o700)
	case n.IsSymlink():
		target, err := x.fsys.Readlink(*n)
		if err != nil {
			return false, err
		}
		return true, x.root.Symlink(target, name)
	case n.IsRegular():
		return true, x.copy(name)
	case n.IsDevice() && !x.owns:
		fmt.Fprintf(x.stderr, "warning: %s: devices and whiteouts need root, left out\n", name)
		return false, nil
	}
	return true, x.node(name, n)
}

func (x *extraction) copy(name string) error {
	src, err := x.fsys.Open(name)
	if err != nil {
		return err
	}
	dst, err := x.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return errors.Join(err, src.Close())
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close(), src.Close())
}

// node makes a device or a pipe.
func (x *extraction) node(name string, n *tardev.Inode) error {
	parent, err := x.root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer parent.Close()
	major, minor := n.Device()
	if err := unix.Mknodat(int(parent.Fd()), path.Base(name), n.Mode, int(unix.Mkdev(major, minor))); err != nil {
		return &fs.PathError{Op: "mknod", Path: name, Err: err}
	}
	return nil
}

// attributes sets owner, mode and time, in the order in which none undoes another.
func (x *extraction) attributes(name string, n *tardev.Inode) error {
	if x.owns {
		if err := x.root.Lchown(name, int(n.UID), int(n.GID)); err != nil {
			return err
		}
	}
	if n.IsSymlink() {
		return nil
	}
	if err := x.root.Chmod(name, fs.FileMode(n.Mode&0o777)); err != nil {
		return err
	}
	return x.root.Chtimes(name, n.ModTime(), n.ModTime())
}

// finish sets what the directories were still to get, the innermost first.
func (x *extraction) finish() error {
	for i := len(x.dirs) - 1; i >= 0; i-- {
		d := x.dirs[i]
		if d.inode.Opaque {
			fmt.Fprintf(x.stderr, "warning: %s: hides what lower layers have there, which a directory cannot say\n", d.name)
		}
		if err := x.attributes(d.name, d.inode); err != nil {
			return err
		}
	}
	return nil
}
