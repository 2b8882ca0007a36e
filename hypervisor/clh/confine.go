package clh

import (
	"fmt"
	"os"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"
)

// A VMM needs no capability: its taps, its API socket and its directory are given
// to it. It keeps the one to read what other users own, because layer files and
// images need not be root's, and a protected machine the one to pin its memory.
var (
	vmmCapabilities       = []uintptr{unix.CAP_DAC_READ_SEARCH}
	protectedCapabilities = []uintptr{unix.CAP_DAC_READ_SEARCH, unix.CAP_IPC_LOCK}
)

// maxFiles is how many descriptors a VMM may have: a machine of 279 disks and
// 1023 vsock streams needs some 2000.
const maxFiles = 1 << 16

// confined runs f, which starts a process, on a thread that is in the network
// namespace at path, unless that is empty, and in the cgroups of where, and that has
// given up every capability but those kept and the way to get one back. The thread ends with it.
func confined(path string, where birthplace, keep []uintptr, f func() error) error {
	result := make(chan error, 1)
	go func() { result <- onThread(path, where, keep, f) }()
	return <-result
}

// onThread is to be run on a goroutine of its own, which takes its thread to the
// grave. The process's first thread stands for the process and would not go.
func onThread(path string, where birthplace, keep []uintptr, f func() error) error {
	runtime.LockOSThread()
	if unix.Gettid() == os.Getpid() {
		defer runtime.UnlockOSThread()
		return confined(path, where, keep, f) // on another, because this one is taken
	}
	if err := where.enter(); err != nil {
		return err
	}
	if err := enterNetNS(path); err != nil {
		return err
	}
	if err := dropPrivileges(keep); err != nil {
		return err
	}
	return f()
}

func enterNetNS(path string) error {
	if path == "" {
		return nil
	}
	there, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer there.Close()
	if err = unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", path, err)
	}
	return nil
}

// dropPrivileges works on the calling thread and what it starts. Who may not
// change the bounding set has nothing to drop from it.
func dropPrivileges(keep []uintptr) error {
	for c := range uintptr(unix.CAP_LAST_CAP + 1) {
		if !slices.Contains(keep, c) {
			_ = unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear the ambient capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("give up new privileges: %w", err)
	}
	return nil
}

// raiseFiles lets the process have as many descriptors as the machine may need,
// as far as this one may.
func raiseFiles(pid int) error {
	var limit unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &limit); err != nil {
		return fmt.Errorf("read the limit of open files: %w", err)
	}
	if limit.Cur >= min(limit.Max, maxFiles) {
		return nil
	}
	limit.Cur = min(limit.Max, maxFiles)
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &limit, nil); err != nil {
		return fmt.Errorf("raise the limit of open files to %d: %w", limit.Cur, err)
	}
	return nil
}
