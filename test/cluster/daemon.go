package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// daemon is a program that runs for as long as the cluster, its output in a file.
type daemon struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended; err is set before
	err  error
}

// startDaemon starts a program and waits until it accepts connections on socket.
func startDaemon(ctx context.Context, env []string, log, socket, program string, args ...string) (*daemon, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command(program, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for us: we stop it in order
	d := &daemon{name: filepath.Base(program), log: log, cmd: cmd, done: make(chan struct{})}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", d.name, err)
	}
	go func() {
		d.err = cmd.Wait()
		close(d.done)
	}()
	if err := d.await(ctx, socket); err != nil {
		return nil, errors.Join(fmt.Errorf("%w; its last words:\n%s", err, tail(log, 15)), d.stop())
	}
	return d, nil
}

func (d *daemon) await(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, daemonReadyTimeout)
	defer cancel()
	for {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-d.done:
			return fmt.Errorf("%s ended before it served %s: %v", d.name, socket, d.err)
		case <-ctx.Done():
			return fmt.Errorf("%s does not serve %s: %w", d.name, socket, err)
		case <-time.After(pollInterval):
		}
	}
}

// stop ends the daemon, by force if it must. It may be called again.
func (d *daemon) stop() error {
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.done:
		return nil
	case <-time.After(daemonStopTimeout):
	}
	_ = d.cmd.Process.Kill()
	<-d.done
	return fmt.Errorf("%s did not end within %s of SIGTERM and was killed", d.name, daemonStopTimeout)
}

// tail returns the last n lines of a log, those for debugging left out, or why
// it cannot be read.
func tail(file string, n int) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	lines := slices.DeleteFunc(strings.Split(strings.TrimRight(string(text), "\n"), "\n"),
		func(line string) bool { return strings.Contains(line, " level=debug ") })
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}
