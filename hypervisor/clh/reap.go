package clh

import (
	"bytes"
	"context"
	"encoding/json"
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

// processFile is where a machine's directory says which process its VMM is.
func processFile(dir string) string { return filepath.Join(dir, "vmm.json") }

func keepProcess(dir string, p hypervisor.Process) error {
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return os.WriteFile(processFile(dir), b, 0o600)
}

// Reap ends a machine of which only the state on disk is left: it kills the VMM
// if p, or what the directory itself says, still is that process, and removes
// dir. It dials nothing, is idempotent and bounded by ctx and by a few seconds.
// A caller that died before it could note the process gives the zero Process.
func Reap(ctx context.Context, dir string, p hypervisor.Process) error {
	if !filepath.IsAbs(dir) || filepath.Dir(filepath.Clean(dir)) == "/" {
		return fmt.Errorf("reap machine: %q is no machine's directory: %w", dir, errdefs.ErrInvalidArgument)
	}
	processes := []hypervisor.Process{p}
	if b, err := os.ReadFile(processFile(dir)); err == nil {
		var noted hypervisor.Process
		if json.Unmarshal(b, &noted) == nil && noted != p {
			processes = append(processes, noted)
		}
	}
	var errs []error
	for _, p := range processes {
		if err := killProcess(ctx, p); err != nil {
			errs = append(errs, fmt.Errorf("reap machine: kill VMM %d: %w", p.PID, err))
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		errs = append(errs, fmt.Errorf("reap machine: %w", err))
	}
	return errors.Join(errs...)
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
	defer func() { _ = unix.Close(fd) }()
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
