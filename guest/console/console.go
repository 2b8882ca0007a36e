// Package console serves the debug console: a root shell on a terminal of its
// own for each connection, without a login. The host can open it at will, so
// only the debug image's agent has this package in it.
package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/guest/reaper"
)

// shells are tried in turn.
var shells = []string{"/bin/bash", "/bin/sh"}

// drainTime is how long output may still come after the shell has exited.
const drainTime = 200 * time.Millisecond

// Serve runs a shell for each connection of l until ctx ends.
func Serve(ctx context.Context, l net.Listener, r *reaper.Reaper) error {
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("debug console: %w", err)
		}
		go func() {
			defer conn.Close()
			if err := session(ctx, conn, r); err != nil {
				slog.Error("debug console", "error", err)
				fmt.Fprintf(conn, "debug console: %v\r\n", err)
			}
		}()
	}
}

// session runs one shell on conn until it exits or conn is closed.
func session(ctx context.Context, conn net.Conn, r *reaper.Reaper) error {
	master, slave, err := openTerminal()
	if err != nil {
		return err
	}
	defer master.Close()
	cmd, child, err := startShell(r, slave)
	slave.Close()
	if err != nil {
		return err
	}
	var wait sync.WaitGroup
	wait.Go(func() {
		_, _ = io.Copy(master, conn)
		_ = child.Signal(unix.SIGHUP) // nobody is there any more
	})
	wait.Go(func() {
		_, _ = io.Copy(conn, master) // ends with EIO when the last process has closed the terminal
		conn.Close()
	})
	select {
	case <-child.Done():
	case <-ctx.Done():
		_ = child.Signal(unix.SIGKILL)
		<-child.Done()
	}
	reaper.Finish(cmd)
	// What the shell has left running may hold the terminal for ever.
	_ = master.SetReadDeadline(time.Now().Add(drainTime))
	wait.Wait()
	return nil
}

func startShell(r *reaper.Reaper, terminal *os.File) (*exec.Cmd, *reaper.Child, error) {
	err := errors.New("the guest has no shell")
	for _, path := range shells {
		cmd := exec.Command(path, "-i")
		cmd.Args[0] = "-sh" // a login shell, which reads its profile
		cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
		cmd.Env = append(os.Environ(), "HOME=/root", "TERM=xterm", "USER=root")
		cmd.Dir = "/"
		cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true}
		child, startErr := r.StartChild(cmd)
		if startErr == nil {
			return cmd, child, nil
		}
		if !errors.Is(startErr, os.ErrNotExist) {
			err = startErr
		}
	}
	return nil, nil, fmt.Errorf("start a shell: %w", err)
}

// openTerminal opens a new pair of pseudo-terminal ends.
func openTerminal() (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open a terminal: %w", err)
	}
	master = os.NewFile(uintptr(fd), "ptmx")
	defer func() {
		if err != nil {
			master.Close()
		}
	}()
	if err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, fmt.Errorf("unlock a terminal: %w", err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, nil, fmt.Errorf("number of a terminal: %w", err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("open a terminal: %w", err)
	}
	return master, slave, nil
}
