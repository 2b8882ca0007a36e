package sandbox

import (
	"context"
	"errors"
	"fmt"

	"github.com/kata-cc/kata-cc/agentclient"
	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

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
// sandbox. If it fails it may be called again; one that is at work is waited for.
func (c *Container) Delete(ctx context.Context) (Exit, error) {
	s, init := c.sandbox, c.Init()
	if err := init.deletable(); err != nil {
		return Exit{}, err
	}
	ended, err := c.beginDelete(ctx)
	if err != nil || ended == nil {
		return init.Exit(), err
	}
	defer close(ended)
	err = c.delete(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	c.deleting = nil
	if err != nil {
		return Exit{}, fmt.Errorf("delete container %s: %w", c.id, err)
	}
	delete(s.containers, c.id)
	c.deleted = true
	return init.Exit(), nil
}

// beginDelete returns what to close when the deletion has ended; nil if another
// one has done it.
func (c *Container) beginDelete(ctx context.Context) (chan struct{}, error) {
	s := c.sandbox
	for {
		s.mu.Lock()
		other := c.deleting
		switch {
		case c.deleted:
			s.mu.Unlock()
			return nil, nil
		case other == nil:
			c.deleting = make(chan struct{})
			ended := c.deleting
			s.mu.Unlock()
			return ended, nil
		}
		s.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, fmt.Errorf("delete container %s: it is being deleted: %w", c.id, context.Cause(ctx))
		}
	}
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
		s.fitAgain(ctx)
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
