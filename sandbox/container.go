package sandbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/configuration"
	"github.com/kata-cc/kata-cc/internal/undo"
	"github.com/kata-cc/kata-cc/mounts"
)

// Container is a container in the guest with its processes.
type Container struct {
	id           string
	sandbox      *Sandbox
	capabilities *specs.LinuxCapabilities // of the init process
	lastWords    string                   // file of the host that takes its termination log; empty: none
	oom          chan struct{}            // closed when the guest has told of a lack of memory
	oomOnce      sync.Once

	// Guarded by the sandbox's lock.
	init     *Process // nil while the container is being created
	execs    map[string]*Process
	paused   bool
	deleting chan struct{} // closed when the deletion at work has ended; nil: none is
	deleted  bool          // a deletion has succeeded
	held     []string      // disk ids of the layers and block volumes in use
	copies   []string      // paths in the guest of what was copied for it
	removed  bool          // the guest has let go of it
	limits   configuration.Limits
}

// CreateContainer plugs the layers that the machine lacks, copies the files and
// makes the container in the guest, with an init process that waits to be
// started. spec is the container's own, of which the capabilities are kept. On
// error nothing of the container is left; a sandbox without its own container
// is of no use and is stopped then.
func (s *Sandbox) CreateContainer(ctx context.Context, id string, spec *specs.Spec, plan *mounts.Plan, stdio OpenStdio) (*Container, error) {
	c := &Container{id: id, sandbox: s, execs: map[string]*Process{}, oom: make(chan struct{}), lastWords: plan.TerminationLog}
	if spec.Process != nil {
		c.capabilities = spec.Process.Capabilities
	}
	if spec.Linux != nil {
		c.limits = c.limits.Updated(spec.Linux.Resources)
	}
	if err := s.reserve(c); err != nil {
		return nil, err
	}
	if err := s.create(ctx, c, plan); err != nil {
		if id == s.o.ID {
			err = errors.Join(err, s.Stop(context.WithoutCancel(ctx)))
		}
		s.mu.Lock()
		delete(s.containers, id)
		s.mu.Unlock()
		return nil, fmt.Errorf("create container %s: %w", id, err)
	}
	p := newProcess(c, id, id, nil, stdio)
	s.mu.Lock()
	c.init = p
	s.mu.Unlock()
	if s.life.Err() != nil {
		p.abandon() // the teardown may have looked before there was a process
	}
	return c, nil
}

// reserve enters the id, so that it cannot be created twice at once.
func (s *Sandbox) reserve(c *Container) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != Running {
		return fmt.Errorf("create container %s: sandbox %s is %s: %w", c.id, s.o.ID, s.state, errdefs.ErrFailedPrecondition)
	}
	if _, ok := s.containers[c.id]; ok {
		return fmt.Errorf("container %s: %w", c.id, errdefs.ErrAlreadyExists)
	}
	s.containers[c.id] = c
	return nil
}

func (s *Sandbox) create(ctx context.Context, c *Container, plan *mounts.Plan) (err error) {
	ctx, cancel := s.within(ctx)
	defer cancel()
	clock := newBudget(createPhases)
	var back undo.Stack
	if c.id != s.o.ID { // whose sandbox is stopped as a whole
		defer back.OnError(ctx, &err)
	}

	back.Add(c.unlimit)
	if err = clock.run(ctx, "size", s.fit); err != nil {
		return err
	}
	var sources map[string]string
	err = clock.run(ctx, "layers", func(ctx context.Context) (err error) {
		if sources, err = s.plugLayers(ctx, c, plan, &back); err != nil {
			return err
		}
		return s.announce(plan, sources, &back)
	})
	if err != nil {
		return err
	}
	// Before what it takes back, files and container: a timeout does not say whether
	// a request was done.
	back.Add(c.removeFromGuest)
	err = clock.run(ctx, "files", func(ctx context.Context) error {
		copied, failed := s.copyFiles(ctx, c, plan, &back)
		clock.fields["copied_files"], clock.fields["copied_bytes"] = copied.Objects, copied.Bytes
		return failed
	})
	if err != nil {
		return err
	}
	request, err := plan.Request(sources)
	if err != nil {
		return err
	}
	err = clock.run(ctx, "agent_create", func(ctx context.Context) error { return s.agent.CreateContainer(ctx, request) })
	if err != nil {
		return err
	}
	clock.fields["container"] = c.id
	clock.report(ctx, "container created")
	return nil
}

// ID returns the container's id.
func (c *Container) ID() string { return c.id }

// Init returns the container's init process.
func (c *Container) Init() *Process {
	c.sandbox.mu.Lock()
	defer c.sandbox.mu.Unlock()
	return c.init
}

// Process finds a process of the container by exec id; empty: the init process.
func (c *Container) Process(exec string) (*Process, error) {
	c.sandbox.mu.Lock()
	defer c.sandbox.mu.Unlock()
	if exec == "" {
		return c.init, nil
	}
	p, ok := c.execs[exec]
	if !ok {
		return nil, fmt.Errorf("exec %s of container %s: %w", exec, c.id, errdefs.ErrNotFound)
	}
	return p, nil
}

// Paused reports whether the container is frozen.
func (c *Container) Paused() bool {
	c.sandbox.mu.Lock()
	defer c.sandbox.mu.Unlock()
	return c.paused
}

// Exec enters another process of the container, to be started. Nothing is sent
// to the guest yet.
func (c *Container) Exec(exec string, spec *specs.Process, stdio OpenStdio) (*Process, error) {
	guestID, err := newGuestID()
	if err != nil {
		return nil, err
	}
	p := newProcess(c, exec, guestID, mounts.NewExecRequest(c.id, guestID, spec, c.capabilities), stdio)
	if spec.ConsoleSize != nil {
		p.size = windowSize{rows: uint32(spec.ConsoleSize.Height), columns: uint32(spec.ConsoleSize.Width)}
	}
	c.sandbox.mu.Lock()
	defer c.sandbox.mu.Unlock()
	if _, ok := c.execs[exec]; ok {
		return nil, fmt.Errorf("exec %s of container %s: %w", exec, c.id, errdefs.ErrAlreadyExists)
	}
	if c.deleting != nil || c.removed {
		return nil, fmt.Errorf("exec %s of container %s: container is being deleted: %w", exec, c.id, errdefs.ErrFailedPrecondition)
	}
	c.execs[exec] = p
	return p, nil
}

// endExecs returns when no exec of the container runs any more. Its init process
// has ended: an exec that did not go with it, in a shared process namespace, is
// killed, and given up if that does not help.
func (c *Container) endExecs() {
	s := c.sandbox
	s.mu.Lock()
	execs := slices.Collect(maps.Values(c.execs))
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(s.life, execGrace)
	defer cancel()
	var all sync.WaitGroup
	for _, e := range execs {
		if !e.running() {
			continue
		}
		all.Go(func() {
			_ = e.signal(ctx, sigkill, false) // most are gone already
			select {
			case <-e.done:
			case <-time.After(execGrace):
				e.finish(Exit{Status: statusKilled, At: time.Now()})
			}
		})
	}
	all.Wait()
}

// Pause freezes every process of the container.
func (c *Container) Pause(ctx context.Context) error {
	return c.freeze(ctx, true)
}

// Resume thaws a paused container.
func (c *Container) Resume(ctx context.Context) error {
	return c.freeze(ctx, false)
}

func (c *Container) freeze(ctx context.Context, pause bool) error {
	s := c.sandbox
	if status := c.Init().Status(); status != RunningProcess || c.Paused() == pause {
		return fmt.Errorf("container %s is %s, paused: %t: %w", c.id, status, c.Paused(), errdefs.ErrFailedPrecondition)
	}
	ctx, cancel := s.within(ctx)
	defer cancel()
	var err error
	if pause {
		err = s.agent.PauseContainer(ctx, &agentpb.PauseContainerRequest{ContainerId: c.id})
	} else {
		err = s.agent.ResumeContainer(ctx, &agentpb.ResumeContainerRequest{ContainerId: c.id})
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c.paused = pause
	return nil
}
