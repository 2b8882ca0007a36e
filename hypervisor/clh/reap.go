package clh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"
	"github.com/kata-cc/kata-cc/hypervisor"
)

// Reap ends a machine of which only the state on disk is left: it kills the VMM
// if p still is that process and removes dir. It dials nothing, is idempotent
// and bounded by ctx and by a few seconds. The zero Process was never started.
func Reap(ctx context.Context, dir string, p hypervisor.Process) error {
	if !filepath.IsAbs(dir) || filepath.Dir(filepath.Clean(dir)) == "/" {
		return fmt.Errorf("reap machine: %q is no machine's directory: %w", dir, errdefs.ErrInvalidArgument)
	}
	err := killProcess(ctx, p)
	if err != nil {
		err = fmt.Errorf("reap machine: kill VMM %d: %w", p.PID, err)
	}
	if rerr := os.RemoveAll(dir); rerr != nil {
		err = errors.Join(err, fmt.Errorf("reap machine: %w", rerr))
	}
	return err
}

// killProcess kills p and waits until it has ended; nil if p is no more.
func killProcess(ctx context.Context, p hypervisor.Process) error {
	if p.PID <= 0 {
		return nil
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open pidfd: %w", err)
	}
	defer unix.Close(fd)
	// Asked after the descriptor was had: if it is the right one now, the
	// descriptor is for the right one.
	started, err := startTime(p.PID)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) || err == nil && started != p.StartTime {
		return nil
	}
	if err != nil {
		return err
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	return waitPidfd(ctx, fd)
}

// waitPidfd waits until the process has ended, reaped or not.
func waitPidfd(ctx context.Context, fd int) error {
	for {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, int((20 * time.Millisecond).Milliseconds()))
		switch {
		case err != nil && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("wait for the end of the process: %w", err)
		case n > 0:
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("wait for the end of the process: %w", context.Cause(ctx))
		}
	}
}

// startTime is field 22 of /proc/PID/stat: when the process was started, in
// clock ticks after boot. With the pid it is unique.
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	// Field 2 is the name in parentheses, which may hold blanks and parentheses.
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("read start time of process %d: %q has too few fields", pid, b)
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}
