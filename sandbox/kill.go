package sandbox

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"github.com/kata-cc/kata-cc/agentclient"
	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

const (
	sigkill = uint32(syscall.SIGKILL)
	sigterm = uint32(syscall.SIGTERM)
)

// Kill sends a signal: to the process, or to every process of the container if
// all is set. A process that has ended takes SIGKILL and SIGTERM in silence.
// One that a SIGKILL does not end within 10 s takes its machine with it.
func (p *Process) Kill(ctx context.Context, signal uint32, all bool) error {
	s := p.container.sandbox
	if err := p.awaitStart(ctx); err != nil {
		return err
	}
	p.mu.Lock()
	status, unstarted := p.status, p.status == CreatedProcess && !p.begun
	if unstarted && p.isInit() {
		p.begun = true
		p.status = RunningProcess // it is in the guest, and its exit will be told
	}
	p.mu.Unlock()
	switch {
	case status == StoppedProcess && (signal == sigkill || signal == sigterm):
		return nil
	case status == StoppedProcess:
		return fmt.Errorf("%s has ended: %w", p.name(), errdefs.ErrNotFound)
	case unstarted && !p.isInit():
		return fmt.Errorf("%s was not started: %w", p.name(), errdefs.ErrFailedPrecondition)
	case unstarted:
		go p.watch(&Stdio{})
	}
	if signal == sigkill {
		p.kill.Do(func() {
			close(p.killed)
			go p.escalate()
		})
	}
	ctx, cancel := s.within(ctx)
	defer cancel()
	ctx, stop := context.WithTimeout(ctx, signalTimeout)
	defer stop()
	err := p.signal(ctx, signal, all)
	if err == nil || signal == sigkill && (s.life.Err() != nil || errors.Is(err, agentclient.ErrGone)) {
		return nil // what was in the machine ends with it
	}
	if agentclient.IsNotFound(err) && (signal == sigkill || signal == sigterm) {
		return nil // it has ended, which Wait will say in a moment
	}
	return fmt.Errorf("signal %d to %s: %w", signal, p.name(), err)
}

// awaitStart returns when no Start is at work: only then does the guest know the
// process for sure.
func (p *Process) awaitStart(ctx context.Context) error {
	p.mu.Lock()
	starting := p.status == CreatedProcess && p.begun
	p.mu.Unlock()
	if !starting {
		return nil
	}
	select {
	case <-p.ready:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("signal %s: it is being started: %w", p.name(), context.Cause(ctx))
	}
}

func (p *Process) signal(ctx context.Context, signal uint32, all bool) error {
	r := &agentpb.SignalProcessRequest{ContainerId: p.container.id, ExecId: p.guestID, Signal: signal}
	if all && p.isInit() {
		r.ExecId = ""
	}
	return p.container.sandbox.agent.SignalProcess(ctx, r)
}

// escalate stops the machine of a process that outlives a SIGKILL.
func (p *Process) escalate() {
	select {
	case <-p.done:
	case <-time.After(killTimeout):
		p.container.sandbox.lose(fmt.Errorf("%s outlived SIGKILL by %v: %w", p.name(), killTimeout, errdefs.ErrUnavailable))
	}
}
