// Package process holds one process of a container: its streams, signals and
// exit.
//
//	started ──exit──▶ ended ──status collected──▶ closed
//
// Between the exit and the collection of its status the process keeps its
// streams, so that output is not lost.
package process

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/guest/reaper"
)

// Process is a started process of a container.
type Process struct {
	ID    string // the exec id; the container's id for init
	child *reaper.Child
	stdio *Stdio
	close sync.Once
}

// New takes over child and stdio. It watches for the exit of child.
func New(id string, child *reaper.Child, stdio *Stdio) *Process {
	p := &Process{ID: id, child: child, stdio: stdio}
	go func() {
		<-child.Done()
		stdio.processEnded()
	}()
	return p
}

// Pid is the process's id in the agent's pid namespace.
func (p *Process) Pid() int { return p.child.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.child.Done() }

// Ended says whether the process has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.child.Done():
		return true
	default:
		return false
	}
}

// Wait waits for the exit and returns the status, 128+n for a death by signal n.
func (p *Process) Wait(ctx context.Context) (int, error) {
	select {
	case <-p.child.Done():
		return p.child.Status(), nil
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// Signal sends a signal to this process; one that has ended counts as signalled.
func (p *Process) Signal(sig unix.Signal) error {
	if err := p.child.Signal(sig); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

// Stdout is the output stream; the terminal's if there is one.
func (p *Process) Stdout() (*Output, error) {
	if p.stdio.out == nil {
		return nil, errNoStream
	}
	return p.stdio.out, nil
}

// Stderr is the error stream; the terminal's if there is one.
func (p *Process) Stderr() (*Output, error) {
	if p.stdio.err == nil {
		return p.Stdout()
	}
	return p.stdio.err, nil
}

// Stdin is the input stream.
func (p *Process) Stdin() (*Input, error) {
	if p.stdio.in == nil {
		return nil, errNoStream
	}
	return p.stdio.in, nil
}

// Resize sets the size of the process's terminal in characters; without one the
// error is of class Unavailable.
func (p *Process) Resize(rows, columns uint16) error { return p.stdio.Resize(rows, columns) }

// Close drops the streams and what is left in them.
func (p *Process) Close() {
	p.close.Do(func() { _ = p.stdio.Close() }) // nobody can do anything about it
}

var (
	errNoTerminal = fmt.Errorf("no tty: the process has no terminal: %w", errdefs.ErrUnavailable)
	errNoStream   = fmt.Errorf("cannot get stream reader: %w", errdefs.ErrFailedPrecondition)
)
