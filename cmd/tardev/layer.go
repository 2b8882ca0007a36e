package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/kata-cc/kata-cc/tardev"
	"github.com/kata-cc/kata-cc/verity"
)

// layerFile is an open layer file.
type layerFile struct {
	file *os.File
	size int64 // of the file, bytes
	data int64 // of what the tree covers, bytes
}

func openLayer(path string) (*layerFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	super, err := verity.ReadSuperblock(f, info.Size())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	return &layerFile{file: f, size: info.Size(), data: super.DataSize()}, nil
}

// verify checks every block and says how many bytes were.
func verify(ctx context.Context, path, rootHash string, stdout io.Writer) error {
	l, err := openLayer(path)
	if err != nil {
		return err
	}
	defer l.file.Close()
	if err := verity.Verify(ctx, l.file, l.size, rootHash); err != nil {
		return fmt.Errorf("verify %s: %w", path, err)
	}
	fmt.Fprintf(stdout, "%s: %d bytes agree with root hash %s\n", path, l.data, rootHash)
	return nil
}

// inspect lists a layer, the way ls does, and what is in its tar and not in it.
func inspect(ctx context.Context, path string, stdout io.Writer) error {
	l, err := openLayer(path)
	if err != nil {
		return err
	}
	defer l.file.Close()
	hash, err := verity.ClaimedRoot(l.file, l.size)
	if err != nil {
		return err
	}
	fsys, err := tardev.Open(l.file, l.data)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	fmt.Fprintf(stdout, "root hash  %s (as the file says; verify checks it)\nprotected  %d bytes\nfile       %d bytes\n\n", hash, l.data, l.size)
	dirs := map[uint64]string{}
	err = fs.WalkDir(fsys, ".", func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		info, err := fsys.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			fmt.Fprintf(stdout, "%-35s%q  implied by its children only, which are not reachable\n", "?---------", name)
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if n := info.Sys().(*tardev.Inode); n.IsDir() {
			if first, again := dirs[n.Ino]; again {
				return fmt.Errorf("%s: %w: %s and %s are one directory", path, tardev.ErrCorrupt, first, name)
			}
			dirs[n.Ino] = name
		}
		return list(stdout, fsys, name, info)
	})
	if err != nil {
		return err
	}
	fmt.Fprintln(stdout)
	lost := 0
	err = fsys.Review(ctx, tardev.BuildOptions{Lost: func(path, what string) {
		lost++
		fmt.Fprintf(stdout, "lost of %q: %s\n", path, what)
	}})
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	fmt.Fprintf(stdout, "%d losses; the index is the one that the tar makes\n", lost)
	return nil
}

func list(w io.Writer, fsys *tardev.FS, name string, info fs.FileInfo) error {
	n := info.Sys().(*tardev.Inode)
	fmt.Fprintf(w, "%-11s %5d:%-5d %10d  %q", info.Mode(), n.UID, n.GID, n.Size, name)
	if info.Mode()&fs.ModeSymlink != 0 {
		target, err := fsys.ReadLink(name)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, " -> %q", target)
	}
	switch {
	case n.IsWhiteout():
		fmt.Fprint(w, "  whiteout")
	case n.Opaque:
		fmt.Fprint(w, "  opaque")
	}
	fmt.Fprintln(w)
	return nil
}
