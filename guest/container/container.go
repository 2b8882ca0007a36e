package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	runc "github.com/containerd/go-runc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/guest/cgroup"
	"github.com/kata-cc/kata-cc/guest/process"
)

// State is where a container stands.
type State string

// The states of a container.
const (
	Created  State = "created"
	Starting State = "starting"
	Running  State = "running"
	Pausing  State = "pausing"
	Paused   State = "paused"
	Resuming State = "resuming"
	Stopped  State = "stopped"
	Removing State = "removing"
)

// Container is a container of the OCI runtime.
type Container struct {
	ID      string
	runtime *Runtime
	spec    *specs.Spec
	group   cgroup.Cgroup
	init    *process.Process
	swept   chan struct{} // closed when nothing of it runs on without init

	mu        sync.Mutex
	state     State                       // never Stopped: that is a Running one whose init has ended
	resumed   State                       // what a paused one becomes again
	processes map[string]*process.Process // nil while being started; entries stay until their status is collected
	removed   chan struct{}               // closed when a removal has ended; nil unless state is Removing
}

// Create makes a container from spec in the directory bundle, up to the point
// where its init waits to be started. On error nothing stays.
func (r *Runtime) Create(ctx context.Context, id, bundle string, spec *specs.Spec) (*Container, error) {
	data, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	if err = os.WriteFile(filepath.Join(bundle, "config.json"), data, 0o600); err != nil {
		return nil, err
	}
	s, err := r.launch(spec.Process.Terminal, func(c *runc.Runc, stdio *process.Stdio, pidFile string) error {
		return c.Create(ctx, id, bundle, &runc.CreateOpts{IO: streams(stdio), PidFile: pidFile, ConsoleSocket: stdio.ConsoleSocket()})
	})
	if err != nil {
		err = missingProgram(err, spec.Root.Path, spec.Process)
		return nil, errors.Join(err, r.delete(context.WithoutCancel(ctx), id))
	}
	init := process.New(id, s.child, s.stdio)
	c := &Container{
		ID: id, runtime: r, spec: spec, group: cgroup.New(spec.Linux.CgroupsPath), init: init,
		swept: make(chan struct{}), state: Created, processes: map[string]*process.Process{id: init},
	}
	go c.sweep()
	return c, nil
}

// sweep kills what init leaves behind. In a pid namespace of the container's own
// the kernel does that, and here it is as necessary: what goes on writing to
// init's streams would keep back its exit.
func (c *Container) sweep() {
	defer close(c.swept)
	<-c.init.Done()
	if !sharesPIDs(c.spec) {
		return
	}
	if err := c.group.Kill(); err != nil {
		slog.Error("kill what is left of a container", "container", c.ID, "error", err)
	}
}

func sharesPIDs(spec *specs.Spec) bool {
	return slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
		return n.Type == specs.PIDNamespace && n.Path != ""
	})
}

// move takes the container from one of the states in from to the state to, or
// says what it is instead.
func (c *Container) move(to State, from ...State) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.stateLocked()
	for _, f := range from {
		if now == f {
			if to == Pausing {
				c.resumed = now
			}
			c.state = to
			return nil
		}
	}
	return fmt.Errorf("container %s: container status is: %s, not %s: %w", c.ID, now, from[0], errdefs.ErrFailedPrecondition)
}

func (c *Container) stateLocked() State {
	if c.state != Removing && c.init.Ended() {
		return Stopped
	}
	return c.state
}

// settle ends an operation that held the container in a state in -ing.
func (c *Container) settle(to State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != Removing {
		c.state = to
	}
}

// State is where the container stands now.
func (c *Container) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stateLocked()
}

// Spec is what the container was made from; it is not changed.
func (c *Container) Spec() *specs.Spec { return c.spec }

// InitPid is the id of the init process in the agent's pid namespace.
func (c *Container) InitPid() int { return c.init.Pid() }

// Start lets the init process go on to the program of the container.
func (c *Container) Start(ctx context.Context) error {
	if err := c.move(Starting, Created); err != nil {
		return err
	}
	err := c.runtime.call(func(r *runc.Runc) error { return r.Start(ctx, c.ID) })
	if err != nil {
		c.settle(Created)
		return fmt.Errorf("start container %s: %w", c.ID, err)
	}
	c.settle(Running)
	return nil
}

// Pause stops every process of the container.
func (c *Container) Pause(ctx context.Context) error {
	if err := c.move(Pausing, Running, Created); err != nil {
		return err
	}
	if err := c.group.Freeze(ctx, true); err != nil {
		c.settle(c.resumed)
		return fmt.Errorf("pause container %s: %w", c.ID, err)
	}
	c.settle(Paused)
	return nil
}

// Resume lets the processes of the container go on.
func (c *Container) Resume(ctx context.Context) error {
	if err := c.move(Resuming, Paused); err != nil {
		return err
	}
	if err := c.group.Freeze(ctx, false); err != nil {
		c.settle(Paused)
		return fmt.Errorf("resume container %s: %w", c.ID, err)
	}
	c.settle(c.resumed)
	return nil
}

// Update changes the limits of the container.
func (c *Container) Update(ctx context.Context, resources *specs.LinuxResources) error {
	if err := c.runtime.call(func(r *runc.Runc) error { return r.Update(ctx, c.ID, resources) }); err != nil {
		return fmt.Errorf("update container %s: %w", c.ID, err)
	}
	return nil
}

// Stats reads the counters of the container.
func (c *Container) Stats() (*agentpb.CgroupStats, error) { return c.group.Stats() }

// WatchOOM calls killed once, when a process of the container has first been
// killed for want of memory; it returns when that has happened or cannot any more.
func (c *Container) WatchOOM(ctx context.Context, killed func()) error {
	return c.group.WatchOOM(ctx, killed)
}

// SignalAll sends a signal to every process of the container.
func (c *Container) SignalAll(sig unix.Signal) error {
	if err := c.group.Signal(sig); err != nil && !c.init.Ended() {
		return fmt.Errorf("signal container %s: %w", c.ID, err)
	}
	return nil
}

// Remove kills what still runs and takes the container away. It may be called
// again when it has failed; a call meanwhile waits for the one under way.
func (c *Container) Remove(ctx context.Context) error {
	c.mu.Lock()
	if c.state == Removing && c.removed != nil {
		removed := c.removed
		c.mu.Unlock()
		select {
		case <-removed:
			return c.Remove(ctx)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	c.state, c.removed = Removing, make(chan struct{})
	done := c.removed
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.removed = nil
		c.mu.Unlock()
		close(done)
	}()
	if err := c.kill(ctx); err != nil {
		return fmt.Errorf("remove container %s: %w", c.ID, err)
	}
	if err := c.runtime.delete(ctx, c.ID); err != nil {
		return fmt.Errorf("remove container %s: %w", c.ID, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.processes {
		if p != nil {
			p.Close()
		}
	}
	clear(c.processes)
	return nil
}

// kill kills every process and waits for their end.
func (c *Container) kill(ctx context.Context) error {
	killed := c.group.Kill()
	if err := c.init.Signal(unix.SIGKILL); err != nil {
		return errors.Join(killed, err)
	}
	for _, p := range c.running() {
		if err := p.Signal(unix.SIGKILL); err != nil {
			return errors.Join(killed, err)
		}
		if _, err := p.Wait(ctx); err != nil {
			return fmt.Errorf("wait for the end of process %d: %w", p.Pid(), err)
		}
	}
	<-c.swept // another container may get the cgroup
	// Processes that nobody waits for are of no interest, but hold the cgroup.
	for {
		pids, err := c.group.Pids()
		if err != nil || len(pids) == 0 {
			return err
		}
		select {
		case <-time.After(emptyPoll):
		case <-ctx.Done():
			return fmt.Errorf("wait for the end of processes %v: %w", pids, context.Cause(ctx))
		}
	}
}

// emptyPoll is how often a killed cgroup is looked at until it is empty.
const emptyPoll = 5 * time.Millisecond
