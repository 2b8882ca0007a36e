package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/containerd/log"

	"github.com/kata-cc/kata-cc/agentclient"
	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/network"
)

// watchNetwork lets the guest follow what happens to the links of the pod's
// namespace while it runs: those that a hook or another CNI plugin adds, those
// that go, and other addresses and routes. It ends before the network is taken
// back.
func (s *Sandbox) watchNetwork(ctx context.Context) {
	if s.network == nil {
		return
	}
	watching, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		said := ""
		err := network.Watch(watching, s.o.NetNS, func() error {
			err := s.followLinks(watching)
			if err == nil {
				said = ""
			} else if said != err.Error() { // it is tried again each second, and told once
				said = err.Error()
				s.complain(watching, "follow the pod's links", err)
			}
			return err
		})
		if err != nil {
			log.G(watching).WithError(err).Warn("links that come or go are not noticed any more")
		}
	}()
	s.undo.Add(func(context.Context) error {
		stop()
		<-ended
		return nil
	})
}

// followLinks brings machine and guest up to date with the namespace. An error is
// one that another attempt may cure.
func (s *Sandbox) followLinks(ctx context.Context) error {
	ctx, cancel := s.within(ctx)
	defer cancel()
	change, err := s.network.Update(ctx, s.o.NetNS)
	if err != nil {
		return err
	}
	if change.Empty() {
		return errors.Join(change.Unjoined, s.unplugLeaving(ctx))
	}
	failed := change.Unjoined
	for _, nic := range change.Added {
		if err := s.plugNIC(ctx, nic); err != nil {
			failed = errors.Join(failed, err)
			change.Interfaces = slices.DeleteFunc(change.Interfaces, func(i network.Interface) bool { return i.MAC.String() == nic.MAC.String() })
		}
	}
	// Only now, as it closes those of all cards.
	failed = errors.Join(failed, s.network.CloseTaps())
	s.followAddresses(ctx)
	for _, i := range change.Interfaces {
		s.complain(ctx, "configure interface "+i.Name, s.configureLink(ctx, i, slices.ContainsFunc(change.Added, hasMAC(i.MAC))))
	}
	if change.Routes {
		s.complain(ctx, "configure the routes", updateRoutes(ctx, s.agent, s.network.Routes))
	}
	for i := range s.leaving { // the guest may have changed its mind
		s.leaving[i].tries = 0
	}
	for _, id := range change.Removed {
		s.leaving = append(s.leaving, leavingNIC{id: id})
	}
	failed = errors.Join(failed, s.unplugLeaving(ctx))
	log.G(ctx).WithFields(log.Fields{"added": len(change.Added), "removed": change.Removed, "configured": len(change.Interfaces)}).Info("network has changed")
	return failed
}

// leavingNIC is a card whose link is gone and that the machine may still have.
type leavingNIC struct {
	id    string
	tries int // since the links changed last
}

// leaveTries is how often a guest is asked to let go of a card before it is left
// in peace until the links change again. The tap goes with the machine at the
// latest.
const leaveTries = 3

// unplugLeaving takes the cards out of the machine that are to go. An error is one
// that another attempt may cure.
func (s *Sandbox) unplugLeaving(ctx context.Context) (again error) {
	kept := s.leaving[:0]
	for _, n := range s.leaving {
		if n.tries < leaveTries {
			err := s.vm.UnplugNIC(ctx, n.id)
			if err == nil {
				continue
			}
			what := "take NIC " + n.id + " out of the machine"
			if n.tries++; n.tries < leaveTries {
				again = errors.Join(again, fmt.Errorf("%s: %w", what, err))
			} else {
				s.complain(ctx, what+", where it stays", err)
			}
		}
		kept = append(kept, n)
	}
	s.leaving = kept
	return again
}

func hasMAC(mac net.HardwareAddr) func(hypervisor.NIC) bool {
	return func(nic hypervisor.NIC) bool { return nic.MAC.String() == mac.String() }
}

// complain logs what could not be done unless the sandbox is ending.
func (s *Sandbox) complain(ctx context.Context, what string, err error) {
	if err != nil && s.life.Err() == nil {
		log.G(ctx).WithError(err).Warn("network: " + what)
	}
}

// plugNIC gives the machine a NIC, or takes back its tap.
func (s *Sandbox) plugNIC(ctx context.Context, nic hypervisor.NIC) error {
	if err := s.vm.HotplugNIC(ctx, nic); err != nil {
		return errors.Join(fmt.Errorf("put NIC %s into the machine: %w", nic.ID, err), s.network.Forget(s.o.NetNS, nic.ID))
	}
	return nil
}

// configureLink configures an interface of the guest, which may not have found a
// new one yet. Agents say so in ways of their own, so any refusal of a new one but
// a policy's is taken for that.
func (s *Sandbox) configureLink(ctx context.Context, i network.Interface, isNew bool) error {
	limit := time.Now().Add(linkTimeout)
	for {
		_, err := s.agent.UpdateInterface(ctx, &agentpb.UpdateInterfaceRequest{Interface: guestInterface(i)})
		if err == nil || !isNew || agentclient.IsDenied(err) || errors.Is(err, agentclient.ErrGone) || time.Now().After(limit) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(linkPause):
		}
	}
}
