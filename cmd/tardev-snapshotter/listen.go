package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// firstFD is where systemd puts the first socket that it passes on.
const firstFD = 3

// socketFor returns the socket that systemd has passed on (sd_listen_fds(3)), or
// without one makes that of path.
func socketFor(path string) (net.Listener, error) {
	pid, count := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS")
	if pid != strconv.Itoa(os.Getpid()) {
		return listen(path)
	}
	if count != "1" {
		return nil, fmt.Errorf("systemd passes on %s sockets (LISTEN_FDS), 1 is expected", count)
	}
	unix.CloseOnExec(firstFD)
	f := os.NewFile(firstFD, "LISTEN_FD_3")
	defer f.Close() // the listener has a copy
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("socket passed on by systemd: %w", err)
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		_ = l.Close()
		return nil, fmt.Errorf("socket passed on by systemd is of network %s, not unix", l.Addr().Network())
	}
	u.SetUnlinkOnClose(false) // it is systemd's
	return u, nil
}

// listen makes a socket that only root may use, in the place of one that nobody
// listens on any more.
func listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, err
	}
	if c, err := net.Dial("unix", path); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("listen on %s: another process does", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	defer unix.Umask(unix.Umask(0o177))
	return net.Listen("unix", path)
}
