package sandbox

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// State is where a sandbox is in its life.
type State int

// The states of a sandbox, in the only order they are walked through. Stopping
// may follow any state but Stopped.
const (
	New      State = iota // nothing was done yet
	Starting              // Start is at work
	Running               // containers can be created
	Stopping              // the machine died or Stop was called; teardown is at work or has failed
	Stopped               // nothing is left on the host
)

// String gives the state's name in lower case.
func (s State) String() string {
	names := [...]string{"new", "starting", "running", "stopping", "stopped"}
	if s < 0 || int(s) >= len(names) {
		return fmt.Sprintf("state %d", int(s))
	}
	return names[s]
}

// State tells where the sandbox is now.
func (s *Sandbox) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// move takes the sandbox from one state to another, or fails if it is in a third.
func (s *Sandbox) move(from, to State) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != from {
		return fmt.Errorf("sandbox %s is %s, not %s: %w", s.o.ID, s.state, from, errdefs.ErrFailedPrecondition)
	}
	s.state = to
	return nil
}
