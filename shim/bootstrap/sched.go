package bootstrap

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// startScheduled starts cmd, with a core scheduling domain of its own if
// containerd asks for it: nothing else then runs beside it on the same core.
func startScheduled(cmd *exec.Cmd) error {
	if os.Getenv("SCHED_CORE") == "" {
		return cmd.Start()
	}
	runtime.LockOSThread() // the domain is the thread's, and the child inherits it
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SCHED_CORE, unix.PR_SCHED_CORE_CREATE, 0, unix.PR_SCHED_CORE_SCOPE_THREAD_GROUP, 0); err != nil {
		return fmt.Errorf("make a core scheduling domain: %w", err)
	}
	return cmd.Start()
}
