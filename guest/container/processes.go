package container

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"

	"github.com/containerd/errdefs"
	runc "github.com/containerd/go-runc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/guest/process"
)

// Exec starts another process in the container. What p does not say of
// capabilities is as init has it.
func (c *Container) Exec(ctx context.Context, id string, p *specs.Process) error {
	if p == nil || len(p.Args) == 0 {
		return fmt.Errorf("Unable to parse process from ExecProcessRequest: %w", errdefs.ErrInvalidArgument)
	}
	if err := c.reserve(id); err != nil {
		return err
	}
	if p.Capabilities == nil {
		p.Capabilities = c.spec.Process.Capabilities
	}
	s, err := c.runtime.launch(p.Terminal, func(r *runc.Runc, stdio *process.Stdio, pidFile string) error {
		return r.Exec(ctx, c.ID, *p, &runc.ExecOpts{IO: streams(stdio), PidFile: pidFile, ConsoleSocket: stdio.ConsoleSocket(), Detach: true})
	})
	if err != nil {
		c.forget(id)
		return fmt.Errorf("exec in container %s: %w", c.ID, missingProgram(err, c.spec.Root.Path, p))
	}
	started := process.New(id, s.child, s.stdio)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state == Removing {
		delete(c.processes, id)
		_ = started.Signal(unix.SIGKILL)
		started.Close()
		return fmt.Errorf("exec in container %s: it is being removed: %w", c.ID, errdefs.ErrFailedPrecondition)
	}
	c.processes[id] = started
	return nil
}

// reserve takes an exec id before the process exists.
func (c *Container) reserve(id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id == "" {
		return fmt.Errorf("Invalid exec id: it is empty: %w", errdefs.ErrInvalidArgument)
	}
	if _, ok := c.processes[id]; ok {
		return fmt.Errorf("exec_id '%s' already exists: %w", id, errdefs.ErrAlreadyExists)
	}
	if now := c.stateLocked(); now != Running {
		return fmt.Errorf("container %s: container status is: %s, not running: %w", c.ID, now, errdefs.ErrFailedPrecondition)
	}
	c.processes[id] = nil
	return nil
}

func (c *Container) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.processes, id)
}

// Process finds a process by its exec id; an empty one, and the container's id,
// are init's. The error is of class NotFound, also when the process's status has
// been collected.
func (c *Container) Process(id string) (*process.Process, error) {
	if id == "" {
		id = c.ID
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.processes[id]; p != nil {
		return p, nil
	}
	if id == c.ID {
		return nil, fmt.Errorf("container %s: cannot find init process! Invalid exec id, or its status has been collected: %w", c.ID, errdefs.ErrNotFound)
	}
	return nil, fmt.Errorf("container %s: Invalid exec id %q: %w", c.ID, id, errdefs.ErrNotFound)
}

// Wait waits for the exit of a process, returns its status and forgets the
// process with what is left in its streams. Everybody who waits gets the status.
func (c *Container) Wait(ctx context.Context, id string) (int, error) {
	p, err := c.Process(id)
	if err != nil {
		return 0, err
	}
	status, err := p.Wait(ctx)
	if err != nil || ctx.Err() != nil {
		return 0, context.Cause(ctx) // nobody hears the status: it is not collected
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.processes[p.ID] == p {
		delete(c.processes, p.ID)
	}
	p.Close()
	return status, nil
}

// Signal sends a signal to one process. The kernel drops a SIGTERM to process 1 of
// a pid namespace that does not handle it, so that becomes SIGKILL. A process that has ended
// counts as signalled.
func (c *Container) Signal(id string, sig unix.Signal) error {
	if id == "" || id == c.ID {
		if sig == unix.SIGTERM && !sharesPIDs(c.spec) && !c.init.Ended() && !heeds(c.init.Pid(), sig) {
			sig = unix.SIGKILL
		}
		return c.init.Signal(sig)
	}
	p, err := c.Process(id)
	if err != nil {
		return err
	}
	return p.Signal(sig)
}

// running is the processes that have not ended, or whose status is not collected.
func (c *Container) running() []*process.Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := []*process.Process{c.init}
	for _, p := range c.processes {
		if p != nil && p != c.init {
			all = append(all, p)
		}
	}
	return all
}

// Ending says whether init has ended or is about to: process 1 of a pid namespace
// waits for the end of all others in it, and meanwhile nothing can enter any more.
func (c *Container) Ending() bool {
	if c.init.Ended() {
		return true
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.init.Pid()))
	return err != nil || exitingIn(stat)
}

// exitingIn reads the flags in /proc/<pid>/stat.
func exitingIn(stat []byte) bool {
	const exiting, flags = 0x4, 6 // PF_EXITING; the field's place behind the name in brackets
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) <= flags {
		return true
	}
	n, err := strconv.ParseUint(string(fields[flags]), 10, 64)
	return err != nil || n&exiting != 0
}

// heeds says whether a process handles, ignores or blocks a signal.
func heeds(pid int, sig unix.Signal) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return err != nil || heedsIn(status, sig)
}

// heedsIn reads the masks of /proc/<pid>/status, 64 bits in hexadecimal.
func heedsIn(status []byte, sig unix.Signal) bool {
	var mask uint64
	for line := range bytes.Lines(status) {
		key, value, _ := bytes.Cut(line, []byte(":"))
		switch string(key) {
		case "SigCgt", "SigIgn", "SigBlk":
			m, err := strconv.ParseUint(string(bytes.TrimSpace(value)), 16, 64)
			if err != nil {
				return true
			}
			mask |= m
		}
	}
	return mask&(1<<(uint(sig)-1)) != 0
}
