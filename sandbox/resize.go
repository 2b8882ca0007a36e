package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

// direct is a direct-assigned volume that a container of the sandbox has had.
type direct struct {
	disk      string // the plan's name of its disk; empty: it is a share
	guestPath string
}

// MonitorSocket is the name of the socket in a sandbox's directory at which its
// shim takes requests about volumes, over HTTP.
const MonitorSocket = "shim-monitor.sock"

// ResizePath is where on that socket ResizeRequests are sent.
const ResizePath = "/direct-volume/resize"

// ResizeRequest asks for another size of a direct-assigned volume.
type ResizeRequest struct {
	VolumePath string // the path that containers mount it from
	Size       uint64 // in bytes
}

// MonitorPath names the socket of a sandbox.
func MonitorPath(stateDir, id string) (string, error) {
	record, err := recordPath(stateDir, id)
	return filepath.Join(filepath.Dir(record), MonitorSocket), err
}

// ResizeVolume lets a direct-assigned volume grow to so many bytes: the disk of
// the machine, with the file behind it, and then the file system in the guest. A
// block device of the host must have grown before. It may be called again.
func (s *Sandbox) ResizeVolume(ctx context.Context, source string, size uint64) error {
	ctx, cancel := s.within(ctx)
	defer cancel()
	if err := s.resizeVolume(ctx, source, size); err != nil {
		return fmt.Errorf("resize volume %s to %d bytes: %w", source, size, err)
	}
	log.G(ctx).WithFields(log.Fields{"volume": source, "size": size}).Info("volume resized")
	return nil
}

func (s *Sandbox) resizeVolume(ctx context.Context, source string, size uint64) error {
	s.mu.Lock()
	d, known := s.directs[source]
	l := s.layers[d.disk]
	s.mu.Unlock()
	switch {
	case known && d.disk == "":
		return fmt.Errorf("it is a network share, whose server decides its size: %w", errdefs.ErrNotImplemented)
	case !known || l == nil:
		return fmt.Errorf("no container of sandbox %s has it: %w", s.o.ID, errdefs.ErrNotFound)
	case l.fixed:
		return fmt.Errorf("it is read-only: %w", errdefs.ErrFailedPrecondition)
	}
	diskSize, err := newSize(l.path, size)
	if err != nil {
		return err
	}
	if err := s.vm.ResizeDisk(ctx, l.id, diskSize); err != nil {
		return err
	}
	return s.agent.ResizeVolume(ctx, &agentpb.ResizeVolumeRequest{VolumeGuestPath: d.guestPath, Size: size})
}

// newSize says which size the disk at path is to have, so that the volume has
// size: a file just that, a device what it has.
func newSize(path string, size uint64) (uint64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() && info.Mode()&fs.ModeDevice == 0 {
		err = fmt.Errorf("%s is neither a file nor a device: %w", path, errdefs.ErrFailedPrecondition)
	}
	var has int64
	if err == nil {
		has, err = f.Seek(0, io.SeekEnd)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return 0, err
	}
	switch device := info.Mode()&fs.ModeDevice != 0; {
	case device && uint64(has) < size:
		return 0, fmt.Errorf("device %s has %d bytes and must grow first: %w", path, has, errdefs.ErrFailedPrecondition)
	case device:
		return uint64(has), nil
	case uint64(has) > size:
		return 0, fmt.Errorf("%s has %d bytes, and a volume cannot shrink: %w", path, has, errdefs.ErrInvalidArgument)
	case size%sectorSize != 0:
		return 0, fmt.Errorf("a disk has whole sectors of %d bytes: %w", sectorSize, errdefs.ErrInvalidArgument)
	}
	return size, nil
}

const sectorSize = 512
