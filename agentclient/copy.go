package agentclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/containerd/errdefs"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

const (
	// copyChunk is the data of one CopyFile, in bytes; a message may have 4 MiB.
	copyChunk = 1 << 20
	// copyDirMode is the mode for missing parents: 0750, and the bit that Go has
	// for directories, as agents and policies expect it.
	copyDirMode = uint32(fs.ModeDir | 0o750)
)

// CopyLimits bounds what Copy sends. Copies live in the guest's memory.
type CopyLimits struct {
	Bytes int64 // content of all files together
	Files int   // files, directories and symbolic links
}

// DefaultCopyLimits has room for any configuration volume.
var DefaultCopyLimits = CopyLimits{Bytes: 64 << 20, Files: 4096}

// Copy sends the file or directory at host to the path guest, with modes and
// owners; a symbolic link at host itself is followed, as a bind mount would,
// those below it are copied as links. Sockets, devices and fifos below it are
// left out. Beyond the limits it fails with ErrResourceExhausted. What was sent
// before an error stays in the guest: the protocol cannot take it back.
func (c *Client) Copy(ctx context.Context, host, guest string, limits CopyLimits) error {
	root, err := filepath.EvalSymlinks(host)
	if err != nil {
		return fmt.Errorf("copy %s into the guest: %w", host, withClass(err))
	}
	left := limits
	err = filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return withClass(err)
		}
		below, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		return c.copyOne(ctx, path, filepath.Join(guest, below), &left)
	})
	if errors.Is(err, errLimits) {
		return fmt.Errorf("copy %s into the guest: more than %d bytes or %d files: %w", host, limits.Bytes, limits.Files, errdefs.ErrResourceExhausted)
	}
	if err != nil {
		return fmt.Errorf("copy %s into the guest: %w", host, err)
	}
	return nil
}

var errLimits = errors.New("limits exceeded")

func withClass(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	return err
}

// copyOne sends one object and takes it off the limits.
func (c *Client) copyOne(ctx context.Context, host, guest string, left *CopyLimits) error {
	info, err := os.Lstat(host)
	if err != nil {
		return withClass(err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: no owner: %w", host, errdefs.ErrInternal)
	}
	if left.Files--; left.Files < 0 {
		return errLimits
	}
	req := &agentpb.CopyFileRequest{
		Path: guest, FileMode: st.Mode, DirMode: copyDirMode, Uid: int32(st.Uid), Gid: int32(st.Gid),
	}
	switch info.Mode().Type() {
	case fs.ModeDir:
		return c.CopyFile(ctx, req)
	case fs.ModeSymlink:
		target, err := os.Readlink(host)
		if err != nil {
			return err
		}
		req.Data = []byte(target)
		return c.CopyFile(ctx, req)
	case 0:
		if left.Bytes -= info.Size(); left.Bytes < 0 {
			return errLimits
		}
		req.FileSize = info.Size()
		return c.copyContent(ctx, host, req)
	}
	return nil
}

// copyContent sends a regular file in chunks, an empty one as one empty chunk.
func (c *Client) copyContent(ctx context.Context, host string, req *agentpb.CopyFileRequest) error {
	f, err := os.OpenFile(host, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return withClass(err)
	}
	defer f.Close()
	buf := make([]byte, min(copyChunk, req.FileSize))
	for {
		chunk := buf[:min(int64(len(buf)), req.FileSize-req.Offset)]
		if n, err := io.ReadFull(f, chunk); err != nil {
			return fmt.Errorf("%s became shorter while it was copied: %d of %d bytes: %w", host, req.Offset+int64(n), req.FileSize, err)
		}
		req.Data = chunk
		if err := c.CopyFile(ctx, req); err != nil {
			return err
		}
		req.Offset += int64(len(chunk))
		if req.Offset >= req.FileSize {
			return nil
		}
	}
}
