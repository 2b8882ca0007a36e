package sandbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

// errStopped is the cause of the end of a sandbox that was meant to end.
var errStopped = fmt.Errorf("sandbox was stopped: %w", errdefs.ErrUnavailable)

// flight is one run of the teardown, which any number of callers wait for.
type flight struct {
	done chan struct{}
	err  error // valid when done is closed
}

// Stop ends the sandbox and takes back everything it did to the host. Processes
// that still run are published as killed first. Callers share one teardown; one
// that failed is repeated by the next call. It goes on when ctx ends.
func (s *Sandbox) Stop(ctx context.Context) error {
	s.end(errStopped) // no effect if the machine was lost before
	s.mu.Lock()
	f := s.stop
	if f == nil || f.failed() {
		f = &flight{done: make(chan struct{})}
		s.stop = f
		if s.state == New {
			close(s.settled) // nobody can start it any more
		}
		s.state = Stopping
		go s.teardown(context.WithoutCancel(ctx), f)
	}
	s.mu.Unlock()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return fmt.Errorf("stop sandbox %s: %w", s.o.ID, context.Cause(ctx))
	}
}

func (f *flight) failed() bool {
	select {
	case <-f.done:
		return f.err != nil
	default:
		return false
	}
}

func (s *Sandbox) teardown(ctx context.Context, f *flight) {
	defer close(f.done)
	began := time.Now()
	<-s.settled // Start sees the end of s.life and returns
	s.endProcesses(ctx)
	if err := s.undo.Run(ctx); err != nil {
		f.err = fmt.Errorf("stop sandbox %s: %w", s.o.ID, err)
		return
	}
	s.mu.Lock()
	s.state = Stopped
	s.layers = map[string]*layer{}
	s.mu.Unlock()
	log.G(ctx).WithField("duration", time.Since(began)).Info("sandbox stopped")
}

// endProcesses returns when the exit of every process was published.
func (s *Sandbox) endProcesses(ctx context.Context) {
	limit := time.After(publishTimeout)
	for _, p := range s.processes() {
		p.abandon()
	}
	for _, p := range s.processes() {
		select {
		case <-p.done:
		case <-limit:
			log.G(ctx).WithField("container", p.container.id).Warn("exit of a process is not published yet")
			return
		}
	}
}

// destroyGuest lets the guest end in good order. Whatever it answers, its
// machine is stopped next.
func (s *Sandbox) destroyGuest(ctx context.Context) error {
	if !errors.Is(context.Cause(s.life), errStopped) {
		return nil // the machine is gone, or does not answer
	}
	ctx, cancel := context.WithTimeout(ctx, destroyTimeout)
	defer cancel()
	if err := s.agent.DestroySandbox(ctx, &agentpb.DestroySandboxRequest{}); err != nil {
		log.G(ctx).WithError(err).Debug("guest was not destroyed in good order")
	}
	return nil
}
