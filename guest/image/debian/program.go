package debian

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
)

// programDirs are the folders in which packages keep programs.
var programDirs = []string{"/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/libexec"}

// Program fetches a package and returns the program of that name in it.
func (a *Apt) Program(ctx context.Context, pkg, program string) (File, error) {
	packages, err := a.Show(ctx, pkg)
	if err != nil {
		return File{}, err
	}
	files, err := a.Open(ctx, packages[0], func(name string) bool {
		return slices.Contains(programDirs, path.Dir(name))
	})
	if err != nil {
		return File{}, err
	}
	for _, dir := range programDirs {
		if _, there := files[path.Join(dir, program)]; there {
			f, err := Resolve(files, path.Join(dir, program))
			f.Path = path.Join(dir, program) // the name asked for, not that behind a link
			return f, err
		}
	}
	return File{}, fmt.Errorf("package %s %s has no program %s: %w", pkg, packages[0].Version, program, errdefs.ErrNotFound)
}

// WriteProgram writes f as an executable. The file is replaced in one step, so
// that it may be running meanwhile.
func WriteProgram(target string, f File) error {
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return fmt.Errorf("write program: %w", err)
	}
	temporary := target + ".new"
	if err := os.WriteFile(temporary, f.Data, 0o755); err != nil {
		return fmt.Errorf("write program: %w", err)
	}
	if err := os.Rename(temporary, target); err != nil {
		return fmt.Errorf("write program: %w", errors.Join(err, os.Remove(temporary)))
	}
	return nil
}
