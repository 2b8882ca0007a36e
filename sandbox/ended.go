package sandbox

import (
	"context"
	"errors"
)

// Ended is closed when the machine was lost or is to be stopped: nothing can be
// done in the sandbox any more.
func (s *Sandbox) Ended() <-chan struct{} { return s.life.Done() }

// Lost reports whether the sandbox ended without having been told to.
func (s *Sandbox) Lost() bool {
	return s.life.Err() != nil && !errors.Is(context.Cause(s.life), errStopped)
}
