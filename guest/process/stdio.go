package process

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	runc "github.com/containerd/go-runc"
	"golang.org/x/sys/unix"
)

// Stdio is the agent's side of a process's standard streams: three pipes, or
// one terminal. It implements [runc.IO], by which the OCI runtime passes the
// other ends on to the process.
type Stdio struct {
	in       *Input
	out, err *Output // err is nil for a terminal
	terminal *os.File
	theirs   [3]*os.File // the process's ends; nil after the start

	socket *runc.Socket // where the terminal arrives
}

// NewPipes makes three pipes which hold size bytes each, or what the kernel
// gives if size is 0.
func NewPipes(size int) (*Stdio, error) {
	var ours [3]*os.File
	s := &Stdio{}
	for i := range ours {
		r, w, err := pipe(size, i == 0)
		if err != nil {
			s.closeTheirs()
			for _, f := range ours[:i] {
				f.Close()
			}
			return nil, fmt.Errorf("make a pipe for a process: %w", err)
		}
		if i == 0 {
			s.theirs[i], ours[i] = r, w
		} else {
			s.theirs[i], ours[i] = w, r
		}
	}
	s.in, s.out, s.err = newInput(ours[0], false), newOutput(ours[1]), newOutput(ours[2])
	return s, nil
}

// pipe makes a pipe. Our end does not block, so that whoever waits on it holds no
// thread and can be woken; a process's must, since few expect anything else.
func pipe(size int, weWrite bool) (r, w *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, err
	}
	if size > 0 {
		// A size the kernel does not grant is no reason to refuse the process.
		_, _ = unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, size)
	}
	ours := fds[0]
	if weWrite {
		ours = fds[1]
	}
	if err := unix.SetNonblock(ours, true); err != nil {
		return nil, nil, errors.Join(err, unix.Close(fds[0]), unix.Close(fds[1]))
	}
	return os.NewFile(uintptr(fds[0]), "pipe"), os.NewFile(uintptr(fds[1]), "pipe"), nil
}

// NewTerminal makes the socket by which the OCI runtime hands over the terminal
// it makes for the process; call [Stdio.ReceiveTerminal] when it has.
func NewTerminal() (*Stdio, error) {
	socket, err := runc.NewTempConsoleSocket()
	if err != nil {
		return nil, fmt.Errorf("make the socket for a process's terminal: %w", err)
	}
	return &Stdio{socket: socket}, nil
}

// ConsoleSocket is where the OCI runtime sends the terminal; nil for pipes.
func (s *Stdio) ConsoleSocket() runc.ConsoleSocket {
	if s.socket == nil {
		return nil
	}
	return s.socket
}

// ReceiveTerminal takes the terminal which the OCI runtime has sent. It does
// nothing for pipes.
func (s *Stdio) ReceiveTerminal() error {
	if s.socket == nil {
		return nil
	}
	defer func() {
		_ = s.socket.Close()
		s.socket = nil
	}()
	console, err := s.socket.ReceiveMaster()
	if err != nil {
		return fmt.Errorf("receive the terminal of a process: %w", err)
	}
	defer console.Close()
	fd, err := unix.FcntlInt(console.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("duplicate the terminal of a process: %w", err)
	}
	// Non-blocking, so that a reader can be interrupted and holds no thread.
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return fmt.Errorf("prepare the terminal of a process: %w", err)
	}
	s.terminal = os.NewFile(uintptr(fd), "terminal")
	s.in, s.out = newInput(s.terminal, true), newOutput(s.terminal)
	return nil
}

// Resize sets the size of the terminal in characters.
func (s *Stdio) Resize(rows, columns uint16) error {
	if s.terminal == nil {
		return errNoTerminal
	}
	raw, err := s.terminal.SyscallConn()
	if err != nil {
		return err
	}
	var ioctl error
	err = raw.Control(func(fd uintptr) {
		ioctl = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns})
	})
	return errors.Join(err, ioctl)
}

// processEnded bounds how long the outputs stay open.
func (s *Stdio) processEnded() {
	for _, o := range []*Output{s.out, s.err} {
		if o != nil {
			o.processEnded()
		}
	}
}

func (s *Stdio) closeTheirs() {
	for i, f := range s.theirs {
		if f != nil {
			f.Close()
			s.theirs[i] = nil
		}
	}
}

// Set implements [runc.IO].
func (s *Stdio) Set(cmd *exec.Cmd) {
	if s.theirs[0] != nil {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = s.theirs[0], s.theirs[1], s.theirs[2]
	}
}

// CloseAfterStart implements [runc.StartCloser]: the runtime has the process's
// ends, so that an end of file can reach us.
func (s *Stdio) CloseAfterStart() error {
	s.closeTheirs()
	return nil
}

// Close ends every stream; who reads or writes is woken.
func (s *Stdio) Close() error {
	s.closeTheirs()
	if s.socket != nil {
		_ = s.socket.Close()
	}
	if s.terminal != nil {
		return s.terminal.Close()
	}
	var errs []error
	if s.in != nil {
		errs = append(errs, s.in.Close())
	}
	for _, o := range []*Output{s.out, s.err} {
		if o != nil {
			errs = append(errs, o.f.Close())
		}
	}
	return errors.Join(errs...)
}

// Stdin implements [runc.IO]; the streams are reached through [Process].
func (s *Stdio) Stdin() io.WriteCloser { return nil }

// Stdout implements [runc.IO].
func (s *Stdio) Stdout() io.ReadCloser { return nil }

// Stderr implements [runc.IO].
func (s *Stdio) Stderr() io.ReadCloser { return nil }
