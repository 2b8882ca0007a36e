package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/term"

	"github.com/kata-cc/kata-cc/internal/vsock"
)

// consoleSocket is the host's end of a guest's vsock, in the machine's directory.
const consoleSocket = "clh.sock"

// target is the console to open.
type target struct {
	Dir     string // parent of the machines' directories
	Sandbox string // id, or the beginning of one
	Port    uint32
}

var sandboxForm = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

// find returns the id of the one sandbox that is meant.
func (t target) find() (string, error) {
	if !sandboxForm.MatchString(t.Sandbox) {
		return "", fmt.Errorf("%q is no id of a sandbox: %w", t.Sandbox, errdefs.ErrInvalidArgument)
	}
	entries, err := os.ReadDir(t.Dir)
	if err != nil && !os.IsNotExist(err) {
		return "", err
	}
	var found []string
	for _, e := range entries {
		if e.Name() == t.Sandbox {
			return e.Name(), nil
		}
		if strings.HasPrefix(e.Name(), t.Sandbox) {
			found = append(found, e.Name())
		}
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("no sandbox %s runs here: nothing like it in %s: %w", t.Sandbox, t.Dir, errdefs.ErrNotFound)
	case 1:
		return found[0], nil
	}
	slices.Sort(found)
	return "", fmt.Errorf("%s may be any of %s: %w", t.Sandbox, strings.Join(found, ", "), errdefs.ErrInvalidArgument)
}

// execute joins the terminal, or whatever input and output are, to the debug
// console until the guest closes it, which it does when its shell has ended.
func execute(ctx context.Context, t target, stdin *os.File, stdout io.Writer) error {
	id, err := t.find()
	if err != nil {
		return fmt.Errorf("exec: %w", err)
	}
	dial, cancel := context.WithTimeout(ctx, dialTimeout)
	conn, err := vsock.Dial(dial, filepath.Join(t.Dir, id, consoleSocket), t.Port)
	cancel()
	if err != nil {
		return fmt.Errorf("exec: sandbox %s has no debug console; is debug_console_enabled = true in the table [agent.kata] "+
			"of its configuration, and was it made after that was written? %w", id, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()

	if !term.IsTerminal(int(stdin.Fd())) {
		return pipe(conn, stdin, stdout)
	}
	return interact(conn, stdin, stdout)
}

// interact is a session at a terminal, which is in raw mode meanwhile.
func interact(conn net.Conn, terminal *os.File, stdout io.Writer) (err error) {
	fd := int(terminal.Fd())
	before, err := term.MakeRaw(fd)
	if err != nil {
		return fmt.Errorf("exec: put the terminal into raw mode: %w", err)
	}
	defer func() { err = errors.Join(err, term.Restore(fd, before)) }()
	if columns, rows, err := term.GetSize(fd); err == nil && rows > 0 && columns > 0 {
		// The console has no other channel than its shell.
		if _, err := fmt.Fprintf(conn, " stty rows %d cols %d\n", rows, columns); err != nil {
			return fmt.Errorf("exec: %w", err)
		}
	}
	go func() { _, _ = io.Copy(conn, terminal) }() // ends with the program
	return output(conn, stdout)
}

// pipe is a session without a terminal. The end of the input ends the shell: a
// console cannot be closed on one side only.
func pipe(conn net.Conn, stdin io.Reader, stdout io.Writer) error {
	go func() {
		last := &lastByte{}
		if _, err := io.Copy(conn, io.TeeReader(stdin, last)); err != nil {
			return
		}
		end := "exit\n"
		if last.b != '\n' && last.any {
			end = "\nexit\n"
		}
		_, _ = io.WriteString(conn, end)
	}()
	return output(conn, stdout)
}

// lastByte remembers the last byte written to it.
type lastByte struct {
	b   byte
	any bool
}

func (l *lastByte) Write(p []byte) (int, error) {
	if len(p) > 0 {
		l.b, l.any = p[len(p)-1], true
	}
	return len(p), nil
}

func output(conn net.Conn, stdout io.Writer) error {
	if _, err := io.Copy(stdout, conn); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("exec: %w", err)
	}
	return nil
}
