package debian

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"path"
	"strings"
)

// File is a file of a package. Link is the target of a symbolic or hard link.
type File struct {
	Package Package
	Path    string // absolute, clean: "/usr/bin/crun"
	Mode    fs.FileMode
	Data    []byte
	Link    string
}

// Open fetches the package and returns those of its files whose path want
// accepts, by path. Directories and device nodes are not returned; a hard link
// is returned as a link to an absolute path.
func (a *Apt) Open(ctx context.Context, p Package, want func(path string) bool) (map[string]File, error) {
	deb, err := a.Fetch(ctx, p)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("unpack %s: %w", p.Name, err)
	}
	if err = cmd.Start(); err != nil {
		return nil, fmt.Errorf("unpack %s: %w", p.Name, err)
	}
	files, err := readFiles(out, p, want)
	if err == nil {
		_, err = io.Copy(io.Discard, out) // padding; dpkg-deb fails if it cannot write it
	} else {
		err = errors.Join(err, cmd.Cancel()) // else it would wait for a reader
	}
	if werr := cmd.Wait(); werr != nil {
		err = errors.Join(err, fmt.Errorf("dpkg-deb --fsys-tarfile: %w: %s", werr, complaint(said.String())))
	}
	if err != nil {
		return nil, fmt.Errorf("unpack %s %s: %w", p.Name, p.Version, err)
	}
	return files, nil
}

func readFiles(r io.Reader, p Package, want func(string) bool) (map[string]File, error) {
	files := map[string]File{}
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		} else if err != nil {
			return nil, err
		}
		f := File{Package: p, Path: path.Clean("/" + h.Name), Mode: h.FileInfo().Mode()}
		if !want(f.Path) {
			continue
		}
		switch h.Typeflag {
		case tar.TypeReg:
			if f.Data, err = io.ReadAll(t); err != nil {
				return nil, fmt.Errorf("%s: %w", f.Path, err)
			}
		case tar.TypeSymlink:
			f.Link = h.Linkname
		case tar.TypeLink:
			f.Link = path.Clean("/" + strings.TrimPrefix(h.Linkname, "./"))
		default:
			continue
		}
		files[f.Path] = f
	}
}

// Resolve follows the links of path within files. It fails if a link leads out
// of files or goes round.
func Resolve(files map[string]File, name string) (File, error) {
	at := name
	for range 16 {
		f, ok := files[at]
		switch {
		case !ok:
			return File{}, fmt.Errorf("%s: no such file in the packages: %w", at, fs.ErrNotExist)
		case f.Link == "":
			return f, nil
		case path.IsAbs(f.Link):
			at = path.Clean(f.Link)
		default:
			at = path.Join(path.Dir(at), f.Link)
		}
	}
	return File{}, fmt.Errorf("%s: too many links", name)
}
