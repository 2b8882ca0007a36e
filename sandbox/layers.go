package sandbox

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/internal/undo"
	"github.com/kata-cc/kata-cc/mounts"
)

// layer is a disk in the machine, a layer or a block volume, shared by the
// containers that use it.
type layer struct {
	id    string         // as the VMM knows it: not used again in the machine's life
	path  string         // on the host
	fixed bool           // it cannot be written to
	users int            // guarded by Sandbox.mu
	ready chan struct{}  // closed when the plug has ended; at and err are valid from then on
	at    hypervisor.BDF // where the guest finds it
	err   error
}

// plugLayers makes sure that the machine has every layer and block volume of the
// plan and says where the guest finds each, by the disk id of the plan.
func (s *Sandbox) plugLayers(ctx context.Context, c *Container, plan *mounts.Plan, back *undo.Stack) (map[string]string, error) {
	if err := plan.CheckDisks(); err != nil {
		return nil, err
	}
	disks := plan.AllDisks()
	if err := s.roomForLayers(disks); err != nil {
		return nil, err
	}
	sources := map[string]string{}
	for _, d := range disks {
		at, err := s.takeLayer(ctx, d)
		if err != nil {
			return nil, err
		}
		back.Add(func(ctx context.Context) error { return s.dropLayer(ctx, d.ID) })
		s.mu.Lock()
		c.held = append(c.held, d.ID)
		s.mu.Unlock()
		if sources[d.ID], err = s.position(at); err != nil {
			return nil, fmt.Errorf("disk %s: %w", d.Path, err)
		}
	}
	return sources, nil
}

// roomForLayers fails if the machine lacks slots for those disks that it does not
// have yet.
func (s *Sandbox) roomForLayers(disks []hypervisor.Disk) error {
	var missing []hypervisor.Disk
	s.mu.Lock()
	for _, d := range disks {
		if _, known := s.layers[d.ID]; !known {
			d.RootBus = s.rootBus
			missing = append(missing, d)
		}
	}
	s.mu.Unlock()
	if err := s.vm.Room(missing); err != nil {
		return fmt.Errorf("plug %d layers: %w", len(disks), err)
	}
	return nil
}

// takeLayer plugs d unless the machine has it already, and counts one user more.
// It returns when the disk is there.
func (s *Sandbox) takeLayer(ctx context.Context, d hypervisor.Disk) (hypervisor.BDF, error) {
	s.mu.Lock()
	l, known := s.layers[d.ID]
	if !known {
		s.plugs[d.ID]++
		l = &layer{id: d.ID, path: d.Path, fixed: d.ReadOnly, ready: make(chan struct{})}
		if n := s.plugs[d.ID]; n > 1 {
			l.id = fmt.Sprintf("%s-%d", d.ID, n)
		}
		s.layers[d.ID] = l
	}
	if l.fixed && !d.ReadOnly {
		s.mu.Unlock()
		return hypervisor.BDF{}, fmt.Errorf("plug %s: another container of the pod has it read-only: %w", d.Path, errdefs.ErrFailedPrecondition)
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
	plug.ID, plug.RootBus = l.id, s.rootBus
	l.at, l.err = s.vm.HotplugDisk(ctx, plug)
	if l.err != nil {
		l.err = fmt.Errorf("plug %s: %w", d.Path, l.err)
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
		log.G(ctx).WithError(err).WithField("disk", l.id).Warn("disk stays plugged")
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
		log.G(ctx).WithError(err).WithField("disk", l.id).Warn("disk stays plugged")
		return nil
	}
	l.users++
	s.layers[id] = l
	return fmt.Errorf("unplug disk %s: %w", l.id, err)
}
