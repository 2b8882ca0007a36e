package sandbox

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/kata-cc/kata-cc/agentclient"
	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

// Status is where a process is in its life.
type Status int

// The states of a process. One that was never started may go from created to
// stopped at once.
const (
	CreatedProcess Status = iota
	RunningProcess
	StoppedProcess
)

// String gives the status in lower case.
func (s Status) String() string {
	return [...]string{"created", "running", "stopped"}[s]
}

// Process is the init process of a container, or an exec.
type Process struct {
	id        string // exec id, or the container's id
	guestID   string // exec id in the guest
	container *Container
	request   *agentpb.ExecProcessRequest // nil for an init process
	open      OpenStdio

	ready  chan struct{} // closed when Start has ended
	done   chan struct{} // closed when exit is valid
	killed chan struct{} // closed when a SIGKILL was sent
	kill   sync.Once

	mu      sync.Mutex
	status  Status
	begun   bool // Start was called, or a signal made one needless
	stdio   *Stdio
	inputAt bool // End was called before there was one
	size    windowSize
	exit    Exit
}

type windowSize struct{ rows, columns uint32 }

func newProcess(c *Container, id, guestID string, request *agentpb.ExecProcessRequest, open OpenStdio) *Process {
	return &Process{
		id: id, guestID: guestID, container: c, request: request, open: open,
		ready: make(chan struct{}), done: make(chan struct{}), killed: make(chan struct{}),
	}
}

// newGuestID makes a name for an exec in the guest: a random UUID, since
// containerd may use an exec id again and an agent must not see it twice.
func newGuestID() (string, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("make an exec id: %w", err)
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:]), nil
}

func (p *Process) isInit() bool { return p.request == nil }

// name is what errors and logs call the process.
func (p *Process) name() string {
	if p.isInit() {
		return "container " + p.container.id
	}
	return "exec " + p.id + " of container " + p.container.id
}

// exec is the exec id for an event: empty for an init process.
func (p *Process) exec() string {
	if p.isInit() {
		return ""
	}
	return p.id
}

// Status tells where the process is in its life.
func (p *Process) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

func (p *Process) running() bool { return p.Status() == RunningProcess }

// Exit tells how the process ended; the zero value if it has not.
func (p *Process) Exit() Exit {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exit
}

// Wait blocks until the process has ended.
func (p *Process) Wait(ctx context.Context) (Exit, error) {
	select {
	case <-p.done:
		return p.Exit(), nil
	case <-ctx.Done():
		return Exit{}, fmt.Errorf("wait for %s: %w", p.name(), context.Cause(ctx))
	}
}

func (p *Process) deletable() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.status == RunningProcess || p.status == CreatedProcess && p.begun {
		return fmt.Errorf("%s is running: %w", p.name(), errdefs.ErrFailedPrecondition)
	}
	return nil
}

// Start runs the process and connects its streams. If it fails the process has
// stopped, with status 255 and no event.
func (p *Process) Start(ctx context.Context) error {
	s := p.container.sandbox
	p.mu.Lock()
	if p.begun || p.status != CreatedProcess {
		p.mu.Unlock()
		return fmt.Errorf("start %s: it was started before: %w", p.name(), errdefs.ErrFailedPrecondition)
	}
	p.begun = true
	p.mu.Unlock()
	defer close(p.ready)

	ctx, cancel := s.within(ctx)
	defer cancel()
	began := time.Now()
	stdio, err := p.open(ctx)
	if err != nil {
		p.settle(Exit{Status: statusLost, At: time.Now()})
		return fmt.Errorf("start %s: %w", p.name(), err)
	}
	if err := p.startInGuest(ctx); err != nil {
		p.settle(Exit{Status: statusLost, At: time.Now()})
		return errors.Join(fmt.Errorf("start %s: %w", p.name(), err), stdio.close())
	}

	p.mu.Lock()
	p.status, p.stdio = RunningProcess, stdio
	if stdio.Stdin != nil && p.inputAt {
		stdio.Stdin.End()
	}
	size := p.size
	p.mu.Unlock()
	s.o.Events(Started{Container: p.container.id, Exec: p.exec()})
	if size.rows > 0 && size.columns > 0 {
		if err := p.resizeInGuest(ctx, size); err != nil {
			log.G(ctx).WithError(err).Warnf("%s: set the size of its terminal", p.name())
		}
	}
	go p.watch(stdio)
	log.G(ctx).WithFields(log.Fields{"container": p.container.id, "exec": p.exec(), "duration": time.Since(began)}).Info("process started")
	return nil
}

func (p *Process) startInGuest(ctx context.Context) error {
	agent := p.container.sandbox.agent
	if p.isInit() {
		return agent.StartContainer(ctx, &agentpb.StartContainerRequest{ContainerId: p.container.id})
	}
	if !p.container.Init().running() {
		return fmt.Errorf("container is %s: %w", p.container.Init().Status(), errdefs.ErrFailedPrecondition)
	}
	return agent.ExecProcess(ctx, p.request)
}

// watch is the one goroutine that sees a process to its end.
func (p *Process) watch(stdio *Stdio) {
	s := p.container.sandbox
	status, err := p.follow(stdio)
	if errors.Is(err, agentclient.ErrGone) {
		<-s.life.Done() // in a moment, and the cause gives the status
	}
	exit := Exit{Status: uint32(status), At: time.Now()}
	switch {
	case err == nil && (status < 0 || status > 255):
		exit.Status = statusLost // no guest's process ends so
	case err != nil:
		exit.Status = s.lostStatus()
		log.G(s.life).WithError(err).Warnf("%s: exit status is unknown", p.name())
	}
	if p.isInit() {
		if exit.Status == statusKilled {
			p.awaitReason()
		}
		p.container.endExecs()
		p.container.keepLastWords(s.life)
	}
	p.finish(exit)
}

// awaitReason gives the guest a moment to say that a container was killed for
// lack of memory, which containerd is to hear before the exit.
func (p *Process) awaitReason() {
	select {
	case <-p.killed: // the reason is known
	case <-p.container.sandbox.life.Done():
	case <-p.container.oom:
	case <-time.After(oomGrace):
	}
}

// lostStatus is the status of a process that went with its machine.
func (s *Sandbox) lostStatus() uint32 {
	if errors.Is(context.Cause(s.life), errStopped) {
		return statusKilled
	}
	return statusLost
}

// finish publishes the exit of a process, once. The end of the sandbox's own
// container is the end of the sandbox.
func (p *Process) finish(exit Exit) {
	s := p.container.sandbox
	if !p.settle(exit) {
		return
	}
	if p.isInit() && p.container.id == s.o.ID && s.life.Err() == nil {
		go func() {
			if err := s.Stop(context.WithoutCancel(s.life)); err != nil {
				log.G(s.life).WithError(err).Error("teardown is incomplete")
			}
		}()
	}
}

// settle makes exit the process's exit unless it has one, publishes it if the
// process ran, and reports whether it did.
func (p *Process) settle(exit Exit) bool {
	p.mu.Lock()
	if p.status == StoppedProcess {
		p.mu.Unlock()
		return false
	}
	ran := p.status == RunningProcess
	p.status, p.exit = StoppedProcess, exit
	p.mu.Unlock()
	if ran {
		p.container.sandbox.o.Events(Exited{Container: p.container.id, Exec: p.exec(), Exit: exit})
	}
	close(p.done)
	return true
}

// abandon ends a process that never ran and now never will. One that runs ends
// by itself, because the sandbox's life has ended.
func (p *Process) abandon() {
	p.mu.Lock()
	created := p.status == CreatedProcess && !p.begun
	if created {
		p.begun = true
		if p.isInit() {
			p.status = RunningProcess // whoever waits for the container hears of its end
		}
	}
	p.mu.Unlock()
	if created {
		p.settle(Exit{Status: p.container.sandbox.lostStatus(), At: time.Now()})
	}
}

// Resize sets the size of the process's terminal, once it runs.
func (p *Process) Resize(ctx context.Context, columns, rows uint32) error {
	s := p.container.sandbox
	size := windowSize{rows: rows, columns: columns}
	p.mu.Lock()
	status := p.status
	p.size = size
	p.mu.Unlock()
	switch status {
	case CreatedProcess:
		return nil // Start does it
	case StoppedProcess:
		return fmt.Errorf("resize terminal of %s: it has ended: %w", p.name(), errdefs.ErrNotFound)
	}
	ctx, cancel := s.within(ctx)
	defer cancel()
	return p.resizeInGuest(ctx, size)
}

func (p *Process) resizeInGuest(ctx context.Context, size windowSize) error {
	return p.container.sandbox.agent.TtyWinResize(ctx, &agentpb.TtyWinResizeRequest{
		ContainerId: p.container.id, ExecId: p.guestID, Row: size.rows, Column: size.columns,
	})
}

// CloseStdin ends the process's standard input after what was written to it so
// far. It does not wait for that.
func (p *Process) CloseStdin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stdio == nil {
		p.inputAt = true
	} else if p.stdio.Stdin != nil {
		p.stdio.Stdin.End()
	}
}
