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
	if errors.Is(err, unix.ENXIO) {
		return refuse("not a regular file")
	}
	if err != nil {
		return fmt.Errorf("layer file: %w: %w", err, errdefs.ErrFailedPrecondition)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("layer file: %w: %w", err, errdefs.ErrFailedPrecondition)
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
		return fmt.Errorf("layer file %s: %w: %w", path, err, errdefs.ErrFailedPrecondition)
	}
	if _, err := f.ReadAt(foot[:], size-int64(len(foot))); err != nil {
		return fmt.Errorf("layer file %s: %w: %w", path, err, errdefs.ErrFailedPrecondition)
	}
	if looks := imageFormat(head[:], foot[:]); looks != "" {
		return refuse("%s", looks)
	}
	return nil
}

// imageFormat says what a disk looks like by its beginning and end, if not like
// a raw one.
func imageFormat(head, foot []byte) string {
	for _, i := range imageFormats {
		if bytes.HasPrefix(head, []byte(i.magic)) {
			return "begins like a " + i.name + " image"
		}
	}
	if bytes.HasPrefix(foot, []byte("conectix")) {
		return "ends like a VHD image"
	}
	return ""
}

// CheckVolume refuses a block device, or a file that serves as one, that must
// not be given to a VMM as a raw disk: a guest could have written the head of an
// image format to it, for a VMM to open what that points to.
func CheckVolume(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("volume: %w: %w", err, errdefs.ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("volume: %w", err)
	}
	defer f.Close()
	refuse := func(reason string) error {
		return fmt.Errorf("volume %s: %s: %w", path, reason, errdefs.ErrInvalidArgument)
	}
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("volume: %w", err)
	}
	if m := info.Mode(); !m.IsRegular() && m.Type() != fs.ModeDevice {
		return refuse("neither a block device nor a file")
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("volume: %w", err)
	}
	var head, foot [512]byte
	if size < int64(len(head)) {
		return refuse(fmt.Sprintf("%d bytes are too few for a disk", size))
	}
	if _, err := f.ReadAt(head[:], 0); err != nil {
		return fmt.Errorf("volume %s: %w", path, err)
	}
	if _, err := f.ReadAt(foot[:], size-int64(len(foot))); err != nil {
		return fmt.Errorf("volume %s: %w", path, err)
	}
	if looks := imageFormat(head[:], foot[:]); looks != "" {
		return refuse(looks)
	}
	return nil
}
