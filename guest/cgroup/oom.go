package cgroup

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// WatchOOM calls killed once, when the kernel has first killed a process of the
// group for want of memory. It returns at once if the group has no memory
// controller, else when that has happened, the group is gone or ctx ends.
func (c Cgroup) WatchOOM(ctx context.Context, killed func()) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch for out-of-memory kills: %w", err)
	}
	watch := os.NewFile(uintptr(fd), "inotify")
	defer watch.Close()
	path := filepath.Join(c.dir, "memory.events")
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_MODIFY); err != nil {
		if err == unix.ENOENT {
			return nil
		}
		return fmt.Errorf("watch %s: %w", path, err)
	}
	defer context.AfterFunc(ctx, func() { watch.Close() })()
	buf := make([]byte, 4096)
	for {
		events, err := c.table("memory.events")
		if err != nil {
			return nil // the group is gone
		}
		if events["oom_kill"] > 0 {
			killed()
			return nil
		}
		// A removed group sends IN_IGNORED, after which the file is not there.
		if _, err := watch.Read(buf); err != nil {
			return nil
		}
		if _, err := os.Stat(path); err != nil {
			return nil
		}
	}
}
