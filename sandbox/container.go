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
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/kata-cc/kata-cc/agentclient"
	"github.com/kata-cc/kata-cc/agentclient/agentpb"
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
	deleting bool
	held     []string // disk ids of the layers and block volumes in use
	copies   []string // paths in the guest of what was copied for it
	removed  bool     // the guest has let go of it
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
	began, clock := time.Now(), newPhases()
	var back undo.Stack
	if c.id != s.o.ID { // whose sandbox is stopped as a whole
		defer back.OnError(ctx, &err)
	}

	sources, err := s.plugLayers(ctx, c, plan, &back)
	if err != nil {
		return err
	}
	if err = s.announce(plan, &back); err != nil {
		return err
	}
	clock.done("layers")
	copied, err := s.copyFiles(ctx, c, plan, &back)
	if err != nil {
		return err
	}
	clock.done("files")
	clock.fields["copied_files"], clock.fields["copied_bytes"] = copied.Objects, copied.Bytes
	request, err := plan.Request(sources)
	if err != nil {
		return err
	}
	// Before the request, not after it: a timeout does not say whether it was done.
	back.Add(c.removeFromGuest)
	if err = s.agent.CreateContainer(ctx, request); err != nil {
		return err
	}
	clock.done("agent_create")
	clock.fields["duration"] = time.Since(began)
	clock.fields["container"] = c.id
	log.G(ctx).WithFields(clock.fields).Info("container created")
	return nil
}

// removeFromGuest makes the guest let go of the container. A guest that is gone
// has.
func (c *Container) removeFromGuest(ctx context.Context) error {
	ctx, cancel := c.sandbox.within(ctx)
	defer cancel()
	ctx, stop := context.WithTimeout(ctx, removeTimeout)
	defer stop()
	err := c.sandbox.agent.RemoveContainer(ctx, &agentpb.RemoveContainerRequest{ContainerId: c.id})
	if err == nil || agentclient.IsNotFound(err) || c.sandbox.life.Err() != nil || errors.Is(err, agentclient.ErrGone) {
		return nil
	}
	return err
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
	if c.deleting || c.removed {
		return nil, fmt.Errorf("exec %s of container %s: container is being deleted: %w", exec, c.id, errdefs.ErrFailedPrecondition)
	}
	c.execs[exec] = p
	return p, nil
}

// DeleteExec forgets an exec that does not run. One that was never started has
// no exit.
func (c *Container) DeleteExec(exec string) (Exit, error) {
	p, err := c.Process(exec)
	if err != nil {
		return Exit{}, err
	}
	if err := p.deletable(); err != nil {
		return Exit{}, err
	}
	c.sandbox.mu.Lock()
	delete(c.execs, exec)
	c.sandbox.mu.Unlock()
	return p.Exit(), nil
}

// Delete removes a container whose init process does not run, then the layers
// that no other container uses. With the sandbox's own container goes the
// sandbox. If it fails it may be called again.
func (c *Container) Delete(ctx context.Context) (Exit, error) {
	s, init := c.sandbox, c.Init()
	if err := init.deletable(); err != nil {
		return Exit{}, err
	}
	s.mu.Lock()
	if c.deleting {
		s.mu.Unlock()
		return Exit{}, fmt.Errorf("container %s is being deleted: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	c.deleting = true
	s.mu.Unlock()

	err := c.delete(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	c.deleting = false
	if err != nil {
		return Exit{}, fmt.Errorf("delete container %s: %w", c.id, err)
	}
	delete(s.containers, c.id)
	return init.Exit(), nil
}

func (c *Container) delete(ctx context.Context) error {
	s := c.sandbox
	if c.id == s.o.ID {
		return s.Stop(ctx)
	}
	s.mu.Lock()
	removed := c.removed
	s.mu.Unlock()
	if !removed {
		c.dropFiles() // an update must not come after the removal
		if err := c.removeFromGuest(ctx); err != nil {
			return err
		}
		s.mu.Lock()
		c.removed = true
		s.mu.Unlock()
		c.Init().abandon() // created, never started: now it never will be
	}
	if s.life.Err() != nil {
		return nil // the layers went with the machine
	}
	s.mu.Lock()
	held := c.held
	c.held = nil
	s.mu.Unlock()
	var errs []error
	for _, id := range held {
		if err := s.dropLayer(ctx, id); err != nil {
			errs = append(errs, err)
			s.mu.Lock()
			c.held = append(c.held, id)
			s.mu.Unlock()
		}
	}
	return errors.Join(errs...)
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

// Update changes the container's resources in the guest.
func (c *Container) Update(ctx context.Context, r *specs.LinuxResources) error {
	ctx, cancel := c.sandbox.within(ctx)
	defer cancel()
	return c.sandbox.agent.UpdateContainer(ctx, &agentpb.UpdateContainerRequest{ContainerId: c.id, Resources: mounts.Resources(r)})
}

// The counters of a container as the guest gives them: times in nanoseconds,
// sizes in bytes, memory.stat by its keys, block devices by major and minor.
type (
	Stats       = agentpb.CgroupStats
	MemoryStats = agentpb.MemoryData
	BlockStats  = agentpb.BlkioStatsEntry
)

// Stats reads the container's counters in the guest.
func (c *Container) Stats(ctx context.Context) (*Stats, error) {
	if c.Init().Status() == StoppedProcess {
		return nil, fmt.Errorf("container %s is stopped: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	ctx, cancel := c.sandbox.within(ctx)
	defer cancel()
	r, err := c.sandbox.agent.StatsContainer(ctx, &agentpb.StatsContainerRequest{ContainerId: c.id})
	if err != nil {
		return nil, err
	}
	if c.sandbox.microseconds {
		toNanoseconds(r.GetCgroupStats())
	}
	return r.GetCgroupStats(), nil
}

// toNanoseconds corrects the times of agents before 4, which pass on the
// microseconds of cgroup version 2. Only that one's memory.stat has "anon".
func toNanoseconds(s *Stats) {
	if _, ok := s.GetMemoryStats().GetStats()["anon"]; !ok {
		return
	}
	if u := s.GetCpuStats().GetCpuUsage(); u != nil {
		u.TotalUsage *= 1000
		u.UsageInKernelmode *= 1000
		u.UsageInUsermode *= 1000
	}
	if t := s.GetCpuStats().GetThrottlingData(); t != nil {
		t.ThrottledTime *= 1000
	}
}
