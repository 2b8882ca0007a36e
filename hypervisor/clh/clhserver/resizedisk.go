package clhserver

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/kata-cc/kata-cc/hypervisor/clh/api"
)

// resizeDisk gives a disk of a machine that runs or is paused another size.
func (s *server) resizeDisk(ctx context.Context, req *request) (any, error) {
	var r api.VmResizeDisk
	if err := decode(req.body, &r); err != nil {
		return nil, err
	}
	if r.Id == nil || r.DesiredSize == nil {
		return nil, fail(badRequest, "missing field `id` or `desired_size`")
	}
	v, err := s.current()
	if err != nil {
		return nil, err
	}
	if v.state == api.VmInfoStateCreated {
		return nil, errNotRunning
	}
	s.mu.Lock()
	disks := value(v.config.Disks)
	i := slices.IndexFunc(disks, func(d api.DiskConfig) bool { return value(d.Id) == *r.Id })
	s.mu.Unlock()
	if i < 0 {
		return nil, fail(unknownDevice, "Error from device manager: UnknownDeviceId(%q)", *r.Id)
	}
	if *r.DesiredSize == 0 || *r.DesiredSize%sectorSize != 0 {
		return nil, fail(other, "Error resizing disk %q: %d bytes are no whole number of sectors", *r.Id, *r.DesiredSize)
	}
	if err = checkSize(value(disks[i].Path), *r.DesiredSize); err == nil {
		err = s.backend.ResizeDisk(ctx, *r.Id, *r.DesiredSize)
	}
	if err != nil {
		return nil, fail(other, "Error resizing disk %q: %v", *r.Id, err)
	}
	return nil, nil
}

const sectorSize = 512

// checkSize fails if path is a block device that is not of the size: only its
// owner can give it another.
func checkSize(path string, size uint64) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Mode()&fs.ModeDevice == 0 {
		return err
	}
	has, err := f.Seek(0, io.SeekEnd)
	if err == nil && uint64(has) != size {
		err = fmt.Errorf("block device %s has %d bytes, not %d", path, has, size)
	}
	return err
}
