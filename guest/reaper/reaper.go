// Package reaper is the one place of the agent that waits for child processes.
//
// The agent is the parent of every orphan of the guest, so it must wait for any
// child; and a program that waits for any child takes exit statuses away from
// whoever waits for one by its id. Therefore nobody else waits: whoever starts a
// child announces it with [Reaper.Expect], learns its id, adopts it and then
// waits on the [Child].
package reaper

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	runc "github.com/containerd/go-runc"
	"golang.org/x/sys/unix"
)

// Reaper collects every child of this process. It implements [runc.ProcessMonitor].
type Reaper struct {
	mu       sync.Mutex
	children map[int]*Child
	expected int                     // expectations that are open
	early    map[int]unix.WaitStatus // exits seen before their adoption; empty unless expected > 0
}

// New returns a reaper that collects nothing until Run is called.
func New() *Reaper {
	return &Reaper{children: make(map[int]*Child), early: make(map[int]unix.WaitStatus)}
}

// Run collects children until ctx ends. It makes this process the parent of its
// orphaned descendants.
func (r *Reaper) Run(ctx context.Context) error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become the reaper of orphans: %w", err)
	}
	exits := make(chan os.Signal, 1) // one is enough: a collection takes every child that ended
	signal.Notify(exits, unix.SIGCHLD)
	go func() {
		defer signal.Stop(exits)
		for {
			r.collect()
			select {
			case <-exits:
			case <-ctx.Done():
				return
			}
		}
	}()
	return nil
}

// collect takes the status of every child that has ended.
func (r *Reaper) collect() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if !ws.Exited() && !ws.Signaled() {
			continue
		}
		if c := r.children[pid]; c != nil {
			delete(r.children, pid)
			c.end(ws)
		} else if r.expected > 0 {
			r.early[pid] = ws
		}
	}
}

// Expectation says that children are about to appear whose ids are not known
// yet; until it is closed no exit is lost.
type Expectation struct {
	r    *Reaper
	once sync.Once
}

// Expect opens an expectation. The caller closes it.
func (r *Reaper) Expect() *Expectation {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expected++
	return &Expectation{r: r}
}

// Close ends the expectation; what was not adopted is forgotten.
func (e *Expectation) Close() {
	e.once.Do(func() {
		e.r.mu.Lock()
		defer e.r.mu.Unlock()
		if e.r.expected--; e.r.expected == 0 {
			clear(e.r.early)
		}
	})
}

// Adopt says that pid is a child, or will become one when its parent ends. The
// child may have ended already.
func (e *Expectation) Adopt(pid int) (*Child, error) {
	r := e.r
	r.mu.Lock()
	defer r.mu.Unlock()
	c := &Child{Pid: pid, done: make(chan struct{}), pidfd: -1}
	if ws, ok := r.early[pid]; ok {
		delete(r.early, pid)
		c.end(ws)
		return c, nil
	}
	// Under the lock, so that pid cannot be collected and given away meanwhile.
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("adopt process %d: %w", pid, err)
	}
	c.pidfd = fd
	r.children[pid] = c
	return c, nil
}

// Child is a process whose exit somebody wants to know.
type Child struct {
	Pid int

	mu     sync.Mutex
	pidfd  int // -1 when the process has ended
	done   chan struct{}
	status unix.WaitStatus
	at     time.Time
}

func (c *Child) end(ws unix.WaitStatus) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status, c.at = ws, time.Now()
	if c.pidfd >= 0 {
		unix.Close(c.pidfd)
		c.pidfd = -1
	}
	close(c.done)
}

// Done is closed when the process has ended.
func (c *Child) Done() <-chan struct{} { return c.done }

// Status is the exit status of the process, 128+n if signal n killed it. It is
// valid after Done.
func (c *Child) Status() int {
	if c.status.Signaled() {
		return 128 + int(c.status.Signal())
	}
	return c.status.ExitStatus()
}

// Signal sends a signal to exactly this process; a process that has ended gives
// an error of class NotFound.
func (c *Child) Signal(sig unix.Signal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pidfd < 0 {
		return fmt.Errorf("process %d has ended: %w", c.Pid, errdefs.ErrNotFound)
	}
	err := unix.PidfdSendSignal(c.pidfd, sig, nil, 0)
	if err == unix.ESRCH {
		return fmt.Errorf("process %d has ended: %w", c.Pid, errdefs.ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("send signal %d to process %d: %w", sig, c.Pid, err)
	}
	return nil
}

// StartChild starts cmd. The caller waits on the child, then calls [Finish].
func (r *Reaper) StartChild(cmd *exec.Cmd) (*Child, error) {
	e := r.Expect()
	defer e.Close()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return e.Adopt(cmd.Process.Pid)
}

// Finish ends what cmd keeps beside its process: the copying of its streams and
// a handle of the process. The child has been waited for.
func Finish(cmd *exec.Cmd) {
	_ = cmd.Wait() // says that somebody else has waited for the process
	_ = cmd.Process.Release()
}

// Start implements [runc.ProcessMonitor].
func (r *Reaper) Start(cmd *exec.Cmd) (chan runc.Exit, error) {
	c, err := r.StartChild(cmd)
	if err != nil {
		return nil, err
	}
	exit := make(chan runc.Exit, 1)
	go func() {
		defer close(exit)
		<-c.Done()
		Finish(cmd)
		exit <- runc.Exit{Timestamp: c.at, Pid: c.Pid, Status: c.Status()}
	}()
	return exit, nil
}

// StartLocked implements [runc.ProcessMonitor]. Nothing of the agent depends on
// the thread which started a process.
func (r *Reaper) StartLocked(cmd *exec.Cmd) (chan runc.Exit, error) { return r.Start(cmd) }

// Wait implements [runc.ProcessMonitor].
func (r *Reaper) Wait(_ *exec.Cmd, exit chan runc.Exit) (int, error) {
	e := <-exit
	return e.Status, nil
}
