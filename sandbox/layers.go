package sandbox

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/log"

	"github.com/kata-cc/kata-cc/hypervisor"
)

// layer is a disk in the machine, shared by the containers that use it.
type layer struct {
	id    string         // as the VMM knows it: not used again in the machine's life
	users int            // guarded by Sandbox.mu
	ready chan struct{}  // closed when the plug has ended; at and err are valid from then on
	at    hypervisor.BDF // where the guest finds it
	err   error
}

// takeLayer plugs d unless the machine has it already, and counts one user more.
// It returns when the disk is there.
func (s *Sandbox) takeLayer(ctx context.Context, d hypervisor.Disk) (hypervisor.BDF, error) {
	s.mu.Lock()
	l, known := s.layers[d.ID]
	if !known {
		s.plugs[d.ID]++
		l = &layer{id: d.ID, ready: make(chan struct{})}
		if n := s.plugs[d.ID]; n > 1 {
			l.id = fmt.Sprintf("%s-%d", d.ID, n)
		}
		s.layers[d.ID] = l
	}
	l.users++
	s.mu.Unlock()

	if known {
		select {
		case <-l.ready:
			return l.at, l.err
		case <-ctx.Done():
			go s.forgetLayer(context.WithoutCancel(ctx), d.ID, l)
			return hypervisor.BDF{}, context.Cause(ctx)
		}
	}

	plug := d
	plug.ID = l.id
	l.at, l.err = s.vm.HotplugDisk(ctx, plug)
	if l.err != nil {
		l.err = fmt.Errorf("plug layer file %s: %w", d.Path, l.err)
		s.mu.Lock()
		delete(s.layers, d.ID)
		s.mu.Unlock()
	}
	close(l.ready)
	return l.at, l.err
}

// forgetLayer takes back the use of a layer that its user did not wait for.
func (s *Sandbox) forgetLayer(ctx context.Context, id string, l *layer) {
	<-l.ready
	if l.err != nil {
		return
	}
	if err := s.dropLayer(ctx, id); err != nil {
		log.G(ctx).WithError(err).WithField("disk", l.id).Warn("layer stays plugged")
	}
}

// dropLayer counts one user less and unplugs the disk with the last one. If that
// fails the user is counted again, so that the call can be repeated.
func (s *Sandbox) dropLayer(ctx context.Context, id string) error {
	s.mu.Lock()
	l, ok := s.layers[id]
	if !ok {
		s.mu.Unlock()
		return nil
	}
	l.users--
	last := l.users == 0
	if last {
		delete(s.layers, id)
	}
	s.mu.Unlock()
	if !last {
		return nil
	}

	err := s.vm.UnplugDisk(ctx, l.id)
	if err == nil || errors.Is(err, hypervisor.ErrGone) {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, again := s.layers[id]; again {
		// Plugged anew meanwhile, by another name: this one stays until the machine goes.
		log.G(ctx).WithError(err).WithField("disk", l.id).Warn("layer stays plugged")
		return nil
	}
	l.users++
	s.layers[id] = l
	return fmt.Errorf("unplug layer %s: %w", l.id, err)
}
