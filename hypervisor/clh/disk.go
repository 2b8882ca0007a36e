package clh

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/hypervisor/clh/api"
	"github.com/kata-cc/kata-cc/internal/undo"
)

// HotplugDisk attaches d and says where the guest will find it. On error
// nothing stays attached: a plug whose answer was lost is taken back by the
// disk's id, later if the VMM does not answer now.
func (m *Machine) HotplugDisk(ctx context.Context, d hypervisor.Disk) (hypervisor.BDF, error) {
	at, err := m.hotplug(ctx, d)
	if err != nil {
		return hypervisor.BDF{}, fmt.Errorf("hotplug disk %s (%s): %w", d.ID, d.Path, err)
	}
	return at, nil
}

func (m *Machine) hotplug(ctx context.Context, d hypervisor.Disk) (at hypervisor.BDF, err error) {
	if err = errors.Join(m.ready(), checkDisk(d)); err != nil {
		return at, err
	}
	return m.plug(ctx, d.ID, d.RootBus, func(ctx context.Context, segment uint16) (api.PciDeviceInfo, error) {
		return m.api.addDisk(ctx, m.o.HotplugTimeout, diskConfig(d, segment, m.spec.DiskRate))
	})
}

// plug gives a device its slot and has add attach it.
func (m *Machine) plug(ctx context.Context, id string, rootBus bool,
	add func(ctx context.Context, segment uint16) (api.PciDeviceInfo, error)) (at hypervisor.BDF, err error) {
	n, err := m.devices.take(id, rootBus)
	if err != nil {
		return at, err
	}
	var back undo.Stack
	defer back.OnError(ctx, &err)
	// Before the call: that its time is over does not say whether the VMM heard it.
	back.Add(func(ctx context.Context) error { return m.withdraw(ctx, id, n) })

	select { // one after the other, so that each can wait for the one before it on its segment
	case <-m.plugging:
		defer func() { m.plugging <- struct{}{} }()
	case <-m.lifetime.Done():
		return at, context.Cause(m.lifetime)
	case <-ctx.Done():
		return at, fmt.Errorf("wait for the plug before it: %w", context.Cause(ctx))
	}
	if err = m.settle(ctx, n); err != nil {
		return at, err
	}
	info, err := add(ctx, n.segment)
	if err != nil {
		return at, err
	}
	if at, err = hypervisor.ParseBDF(info.Bdf); err != nil {
		return at, err
	}
	return at, m.devices.place(n, at)
}

// Room fails unless there is a slot for each of the disks.
func (m *Machine) Room(disks []hypervisor.Disk) error {
	if err := m.ready(); err != nil {
		return err
	}
	return m.devices.room(disks)
}

// settle waits until the guest uses the disk plugged before n on n's segment, where
// the VMM's version asks for it.
func (m *Machine) settle(ctx context.Context, n *node) error {
	before := m.devices.before(n)
	if before == nil || m.version.plugsWhole() {
		return nil
	}
	select {
	case <-before.active:
		return nil
	default:
	}
	select {
	case <-before.active:
	case <-before.gone:
	case <-time.After(activateTimeout):
	case <-m.lifetime.Done():
		return context.Cause(m.lifetime)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// withdraw takes back a plug that failed, now or as soon as the VMM answers.
func (m *Machine) withdraw(ctx context.Context, id string, n *node) error {
	err := m.unplug(ctx, id, n)
	if err == nil || errors.Is(err, hypervisor.ErrGone) {
		return nil
	}
	m.work(func() {
		for {
			select {
			case <-m.lifetime.Done():
				return
			case <-n.gone:
				return
			case <-time.After(withdrawPeriod):
			}
			if m.unplug(m.lifetime, id, n) == nil {
				return
			}
		}
	})
	return fmt.Errorf("take device %s back (it is tried again): %w", id, err)
}

// UnplugDisk detaches the disk and returns when the guest has let go of it.
func (m *Machine) UnplugDisk(ctx context.Context, id string) error {
	if err := m.unplugDevice(ctx, id); err != nil {
		return fmt.Errorf("unplug disk %s: %w", id, err)
	}
	return nil
}

func (m *Machine) unplugDevice(ctx context.Context, id string) error {
	if err := m.ready(); err != nil {
		return err
	}
	n := m.devices.find(id)
	if n == nil {
		return nil
	}
	return m.unplug(ctx, id, n)
}

func (m *Machine) unplug(ctx context.Context, id string, n *node) error {
	if err := m.ask(ctx, id, n); err != nil {
		return err
	}
	limit := time.NewTimer(m.o.UnplugTimeout)
	defer limit.Stop()
	poll := time.NewTicker(treePeriod)
	defer poll.Stop()
	repeat := time.After(m.o.UnplugTimeout / 2)
	for {
		select {
		case <-n.gone:
			return nil
		case <-poll.C: // the event may have been lost
			if there, err := m.inTree(ctx, id); err == nil && !there {
				m.devices.removed(id)
			}
		case <-repeat: // the guest may have missed it
			if err := m.ask(ctx, id, n); err != nil {
				return err
			}
		case <-limit.C:
			return fmt.Errorf("the guest did not let go of it within %v: %w", m.o.UnplugTimeout, context.DeadlineExceeded)
		case <-m.lifetime.Done():
			return context.Cause(m.lifetime)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// ask asks for the disk's removal. A VMM that refuses does so because it has no
// such disk, or because it was asked before (53.0); the device tree tells which.
func (m *Machine) ask(ctx context.Context, id string, n *node) error {
	err := m.api.removeDevice(ctx, m.o.APITimeout, id)
	var refused *APIError
	if !errors.As(err, &refused) {
		m.devices.ask(n) // even a lost answer may have been a yes
		return err
	}
	there, terr := m.inTree(ctx, id)
	switch {
	case terr != nil:
		return errors.Join(err, terr)
	case !there:
		m.devices.removed(id)
		return nil
	case m.devices.asked(n):
		return nil
	default:
		return err
	}
}

// inTree says whether the VMM still has the device.
func (m *Machine) inTree(ctx context.Context, id string) (bool, error) {
	info, err := m.api.info(ctx, m.o.APITimeout)
	if err != nil {
		return false, err
	}
	if info.DeviceTree == nil {
		return false, fmt.Errorf("vm.info: a running machine without a device tree: %w", errdefs.ErrFailedPrecondition)
	}
	_, there := (*info.DeviceTree)[id]
	return there, nil
}
