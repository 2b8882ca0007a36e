package bootstrap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/containerd/runtime/v2/shim"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/mounts"
	"github.com/kata-cc/kata-cc/sandbox"
)

// statusDeleted is what containerd is told of a process that delete ended.
const statusDeleted = 128 + 9

const (
	// goneTimeout bounds the wait for the end of a shim's server that was killed.
	goneTimeout = time.Second
	// exitTimeout is how long a server that has taken its sandbox down may still
	// take to end: it tries to get rid of its last events.
	exitTimeout = 3 * time.Second
)

// Stop implements shim.Manager, for the call "delete". It may be repeated: what
// is gone already is no error. A later container of a pod whose shim answers has
// nothing outside of its bundle, and nothing is touched for it.
func (m *Manager) Stop(ctx context.Context, id string) (shim.StopStatus, error) {
	bundle := "."
	if o, ok := ctx.Value(shim.OptsKey{}).(shim.Opts); ok && o.BundlePath != "" {
		bundle = o.BundlePath
	}
	status := shim.StopStatus{ExitStatus: statusDeleted, ExitedAt: time.Now()}
	err := m.clean(ctx, id, bundle)
	return status, errors.Join(err, unmountRootfs(bundle))
}

func (m *Manager) clean(ctx context.Context, id, bundle string) error {
	annotations, err := readAnnotations(bundle)
	if errors.Is(err, fs.ErrNotExist) {
		annotations = nil // a bundle that was never filled: it can only be a sandbox's
	} else if err != nil {
		return err
	}
	kind, sandboxID, err := mounts.Identify(annotations, id)
	if err != nil {
		return err
	}
	address, err := shim.ReadAddress(filepath.Join(bundle, "address"))
	if err != nil && kind == mounts.PodContainer { // start did not get that far: the pod's bundle is beside this one
		address, err = shim.ReadAddress(filepath.Join(bundle, "..", sandboxID, "address"))
	}
	if err != nil {
		address = ""
	}
	if kind == mounts.PodContainer && address != "" && alive(address) {
		return nil
	}
	found, err := sandbox.Reap(ctx, m.StateDir, sandboxID, m.ReapVM)
	if err != nil {
		return err
	}
	if found {
		log.G(ctx).WithField("sandbox", sandboxID).Warn("took back what the sandbox had left")
	}
	if kind == mounts.PodContainer {
		return nil // the server, if there is one, is the sandbox's to end
	}
	ended, err := endServer(ctx, bundle, id, found)
	if err != nil {
		return err
	}
	if address != "" && (ended || !alive(address)) {
		return removeSocket(address)
	}
	return nil
}

// endServer sees the shim's server to its end, if it still runs. One that has
// taken its sandbox down is about to end by itself; one that had not is killed.
// It reports whether the server is known to have ended.
func endServer(ctx context.Context, bundle, id string, kill bool) (ended bool, err error) {
	pid := pidFile(bundle)
	if pid == 0 {
		return false, nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("end shim %d: %w", pid, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if !isServer(pid, id) {
		return true, nil
	}
	if !kill && awaitEnd(fd, exitTimeout) {
		return true, nil
	}
	log.G(ctx).WithField("pid", pid).Warn("shim is killed")
	if err = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return false, fmt.Errorf("end shim %d: %w", pid, err)
	}
	if !awaitEnd(fd, goneTimeout) {
		return false, fmt.Errorf("end shim %d: it did not end in %v", pid, goneTimeout)
	}
	return true, nil
}

// isServer reports whether a process is the server of the shim with the id: pids
// are used again.
func isServer(pid int, id string) bool {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return false
	}
	exe, err := os.Readlink(filepath.Join(proc, "exe"))
	if err != nil || exe != self {
		return false
	}
	cmdline, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	if err != nil {
		return false
	}
	args := bytes.Split(bytes.TrimSuffix(cmdline, []byte{0}), []byte{0})
	for i := 1; i < len(args); i++ {
		if string(args[i-1]) == "-id" {
			return string(args[i]) == id
		}
	}
	return false
}

// awaitEnd reports whether the process ends in time.
func awaitEnd(pidfd int, limit time.Duration) bool {
	deadline := time.Now().Add(limit)
	for {
		left := time.Until(deadline)
		if left <= 0 {
			return false
		}
		poll := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, int(left.Milliseconds())+1)
		if n > 0 {
			return true
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false
		}
	}
}

// unmountRootfs unmounts what containerd, or a shim of another kind, mounted for
// the container.
func unmountRootfs(bundle string) error {
	rootfs := filepath.Join(bundle, "rootfs")
	for {
		err := unix.Unmount(rootfs, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil
		case err != nil:
			return fmt.Errorf("unmount %s: %w", rootfs, err)
		}
	}
}
