package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/containerd/log"

	"github.com/kata-cc/kata-cc/agentclient"
	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/hypervisor"
)

func (s *Sandbox) dialAgent(ctx context.Context) (net.Conn, error) {
	return s.vm.Dial(ctx, AgentPort)
}

// watchMachine ends the sandbox when the VMM does. It is the sandbox's one
// goroutine from Launch to the VMM's end.
func (s *Sandbox) watchMachine() {
	exit, err := s.vm.Wait(context.Background())
	if err != nil { // not before the VMM's end, and that has no error
		exit.Reason = err.Error()
	}
	s.lose(fmt.Errorf("%w: VMM ended: %s", hypervisor.ErrGone, exit.Reason))
}

// lose ends the sandbox because of cause: every process that still runs is
// published as ended, then everything is taken back.
func (s *Sandbox) lose(cause error) {
	if s.life.Err() == nil {
		log.G(s.life).WithError(cause).Error("sandbox is lost")
	}
	s.end(cause)
	if err := s.Stop(context.WithoutCancel(s.life)); err != nil {
		log.G(s.life).WithError(err).Error("teardown is incomplete")
	}
}

// lostGrace is how long the loss of the agent's connection waits for the death
// of its machine to be noticed, which says more.
const lostGrace = 500 * time.Millisecond

// watchAgent ends the sandbox when the connection to the agent is lost: what ran
// in the guest cannot be reached any more.
func (s *Sandbox) watchAgent() {
	select {
	case <-s.life.Done():
		return
	case <-s.agent.Done():
	}
	select {
	case <-s.life.Done():
	case <-time.After(lostGrace):
		s.lose(agentclient.ErrGone)
	}
}

// watchHealth ends the sandbox when the agent has stopped answering.
func (s *Sandbox) watchHealth() {
	failed := 0
	for {
		select {
		case <-s.life.Done():
			return
		case <-time.After(checkInterval):
		}
		_, err := s.agent.Check(s.life, &agentpb.CheckRequest{})
		switch {
		case err == nil:
			failed = 0
		case s.life.Err() != nil:
			return
		default:
			failed++
			log.G(s.life).WithError(err).Warnf("agent does not answer (%d of %d)", failed, checkFailures)
		}
		if failed == checkFailures {
			s.lose(fmt.Errorf("agent did not answer %d checks: %w", failed, err))
			return
		}
	}
}

// watchMemory passes on what the guest says about lack of memory. A guest that
// says it without end is slowed down. The request ends with the connection, which
// the teardown closes.
func (s *Sandbox) watchMemory() {
	ctx := context.WithoutCancel(s.life)
	for {
		event, err := s.agent.GetOOMEvent(ctx, &agentpb.GetOOMEventRequest{})
		if s.life.Err() != nil || errors.Is(err, agentclient.ErrGone) {
			return
		}
		if err != nil {
			log.G(s.life).WithError(err).Debug("no out-of-memory events")
		} else if c, err := s.Container(event.GetContainerId()); err == nil {
			s.o.Events(OutOfMemory{Container: c.id})
			c.oomOnce.Do(func() { close(c.oom) })
		}
		select {
		case <-s.life.Done():
			return
		case <-time.After(oomPause):
		}
	}
}
