// Package undo takes back the effects of an operation that failed half way, or
// of one that has had its time.
package undo

import (
	"context"
	"errors"
	"sync"
)

// Stack holds how to take back what was done, last effect first. The zero value
// is empty and ready for use. It is safe for concurrent use.
type Stack struct {
	mu    sync.Mutex
	steps []func(context.Context) error
}

// Add enters how to take back an effect. Enter it before the effect is made
// where a failure does not say whether it was.
func (s *Stack) Add(step func(context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.steps = append(s.steps, step)
}

// Run takes everything back, the last effect first. It walks the whole stack
// whatever fails and joins the errors; the steps that failed stay on the stack,
// so that a second Run tries them again.
func (s *Stack) Run(ctx context.Context) error {
	s.mu.Lock()
	steps := s.steps
	s.steps = nil
	s.mu.Unlock()

	var failed []func(context.Context) error
	var errs []error
	for i := len(steps) - 1; i >= 0; i-- {
		if err := steps[i](ctx); err != nil {
			errs = append(errs, err)
			failed = append([]func(context.Context) error{steps[i]}, failed...)
		}
	}
	s.mu.Lock()
	s.steps = append(failed, s.steps...)
	s.mu.Unlock()
	return errors.Join(errs...)
}

// OnError runs the stack if *err is not nil, on a context that outlives ctx,
// and joins what failed to *err. It is meant to be deferred.
func (s *Stack) OnError(ctx context.Context, err *error) {
	if *err != nil {
		*err = errors.Join(*err, s.Run(context.WithoutCancel(ctx)))
	}
}

// Forget empties the stack: the effects are to stay.
func (s *Stack) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.steps = nil
}
