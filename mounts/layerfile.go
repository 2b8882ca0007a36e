package mounts

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// layerBlock is what the size of a layer file is a multiple of, in bytes.
const layerBlock = 4096

// minLayer is the smallest layer file: data, index, tree and superblock.
const minLayer = 3 * layerBlock

// imageFormats are beginnings of files that a VMM might take for something else
// than a raw disk and then open what they point to.
var imageFormats = []struct {
	name  string
	magic string
}{
	{"qcow2", "QFI\xfb"},
	{"VHDX", "vhdxfile"},
	{"VHD", "conectix"},
}

// CheckLayerFile refuses a file that must not be given to a VMM as a raw disk:
// one that is missing (ErrNotFound), not regular, of a size that no layer file
// has, or in a format that a VMM may probe for (ErrInvalidArgument).
func CheckLayerFile(path string) error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("layer file %s: "+format+": %w", append(append([]any{path}, args...), errdefs.ErrInvalidArgument)...)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("layer file: %w: %w", err, errdefs.ErrNotFound)
	}
	if errors.Is(err, unix.ELOOP) {
		return refuse("is a symbolic link")
	}
	if err != nil {
		return fmt.Errorf("layer file: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("layer file: %w", err)
	}
	size := info.Size()
	switch {
	case !info.Mode().IsRegular():
		return refuse("not a regular file")
	case size < minLayer || size%layerBlock != 0:
		return refuse("size %d is not a multiple of %d from %d on: truncated?", size, layerBlock, minLayer)
	}
	var head, foot [512]byte
	if _, err := io.ReadFull(f, head[:]); err != nil {
		return fmt.Errorf("layer file %s: %w", path, err)
	}
	if _, err := f.ReadAt(foot[:], size-int64(len(foot))); err != nil {
		return fmt.Errorf("layer file %s: %w", path, err)
	}
	for _, i := range imageFormats {
		if bytes.HasPrefix(head[:], []byte(i.magic)) {
			return refuse("begins like a %s image", i.name)
		}
	}
	if bytes.HasPrefix(foot[:], []byte("conectix")) {
		return refuse("ends like a VHD image")
	}
	return nil
}
