package storage

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/guest/devmapper"
	"github.com/kata-cc/kata-cc/guest/mount"
	"github.com/kata-cc/kata-cc/tardev"
	"github.com/kata-cc/kata-cc/tardev/tarfuse"
)

// Options of layers and of the stack made of them.
const (
	optionRootHash  = mount.KataPrefix + "fs-opt.root-hash"
	optionIsLayer   = mount.KataPrefix + "fs-opt.is-layer"
	optionOverlayRW = mount.KataPrefix + "fs-opt.overlay-rw"
)

const fsTar = "tar"

// mountBlock waits for a disk and mounts it, behind dm-verity if the storage has
// a root hash. A layer must have one.
func mountBlock(ctx context.Context, j *job) error {
	options := j.st.GetOptions()
	rootHash, verified := mount.Option(options, optionRootHash)
	if !verified && (slices.Contains(options, optionIsLayer) || j.st.GetFstype() == fsTar) {
		return fmt.Errorf("layer %s has no root hash: %w", layerName(j.st.GetMountPoint()), errdefs.ErrInvalidArgument)
	}
	opts, err := mount.ParseOptions(options)
	if err != nil {
		return err
	}
	disk, err := j.set.Disks.Find(ctx, j.st.GetSource())
	if err != nil {
		return err
	}
	if j.st.GetFstype() == "bind" { // the device itself, without a file system
		opts.Flags |= unix.MS_BIND
	}
	if !verified {
		return j.mount(mount.Mount{Source: disk, FSType: j.st.GetFstype(), Options: opts})
	}
	device, err := devmapper.OpenVerity(ctx, disk, layerName(j.st.GetMountPoint()), rootHash)
	if err != nil {
		return err
	}
	j.undo.Add(device.Close)
	opts.Flags |= unix.MS_RDONLY
	if j.st.GetFstype() == fsTar && !kernelHas(fsTar) {
		err = j.mountTar(device, rootHash)
	} else {
		err = j.mount(mount.Mount{Source: device.Path, FSType: j.st.GetFstype(), Options: opts})
	}
	if err != nil {
		return fmt.Errorf("layer %s with root hash %s: %w", device.Name, rootHash, err)
	}
	return nil
}

// mountTar serves the tar file system of a verified device from this process,
// for a kernel that does not know it.
func (j *job) mountTar(device *devmapper.Device, rootHash string) error {
	f, err := os.Open(device.Path)
	if err != nil {
		return err
	}
	j.undo.Add(func(context.Context) error {
		if closed := f.Close(); !errors.Is(closed, os.ErrClosed) {
			return closed
		}
		return nil
	})
	fsys, err := tardev.Open(f, device.Size)
	if err != nil {
		return fmt.Errorf("open %s: %w", device.Path, err)
	}
	target := j.st.GetMountPoint()
	if err = os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	j.undo.Add(removeDir(target))
	server, err := tarfuse.Mount(fsys, target, tarfuse.Options{FSName: device.Path, OnError: reportReads(device.Name, rootHash)})
	if err != nil {
		return fmt.Errorf("failed to mount %s to %s: %w", device.Path, target, err)
	}
	j.undo.Add(func(context.Context) error {
		if err := server.Unmount(); err != nil {
			return errors.Join(err, mount.Unmount(target))
		}
		server.Wait()
		return nil
	})
	return nil
}

// reportedReads is how many failed reads of a layer are logged: a container may
// try one for ever.
const reportedReads = 10

// reportReads logs what a container only sees as an I/O error.
func reportReads(layer, rootHash string) func(error) {
	var failed atomic.Uint32
	return func(err error) {
		if failed.Add(1) <= reportedReads {
			slog.Error("read of a layer failed; its data may not match the root hash", "layer", layer, "root_hash", rootHash, "error", err)
		}
	}
}

// kernelHas says whether the kernel knows a file system.
func kernelHas(fstype string) bool {
	f, err := os.Open("/proc/filesystems")
	if err != nil {
		return false
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) > 0 && fields[len(fields)-1] == fstype {
			return true
		}
	}
	return false
}
