package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/kata-cc/kata-cc/tardev"
)

// build makes the layer file of a blob. The file appears whole or not at all.
func build(ctx context.Context, blob, file string, stdin io.Reader, stdout, stderr io.Writer) (err error) {
	src := stdin
	if blob != "-" {
		f, openErr := os.Open(blob)
		if openErr != nil {
			return openErr
		}
		defer f.Close()
		src = f
	}
	dst, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-")
	if err != nil {
		return fmt.Errorf("build %s: %w", file, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("build %s of %s: %w", file, blob, err), dst.Close(), os.Remove(dst.Name()))
		}
	}()
	out := bufio.NewWriterSize(dst, 1<<20)
	layer, err := tardev.Build(ctx, out, src, tardev.BuildOptions{
		Lost:    func(path, what string) { fmt.Fprintf(stderr, "warning: %q loses %s\n", path, what) },
		TempDir: filepath.Dir(file),
	})
	if err != nil {
		return err
	}
	if err = errors.Join(out.Flush(), dst.Chmod(0o644), dst.Sync()); err != nil {
		return err
	}
	if err = os.Rename(dst.Name(), file); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "diff id    %s\nroot hash  %s\ntar        %d bytes\nprotected  %d bytes\nfile       %d bytes\ninodes     %d\n",
		layer.DiffID, layer.RootHash, layer.TarSize, layer.DataSize, layer.Size, layer.Inodes)
	return dst.Close()
}
