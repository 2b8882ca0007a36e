package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/qemu/qmp"
)

// addDisk hot-plugs d. On error it is not plugged.
func (m *machine) addDisk(ctx context.Context, d clhserver.Disk) (err error) {
	img, err := inspect(d.Path)
	if err != nil {
		return err
	}
	name := m.names.add(d.ID, "disk")
	limits, node, dev, err := diskArguments(d, name, img)
	if err == nil && limits != nil {
		if err = m.run(ctx, "object-add", limits, nil); err == nil || !refused(err) {
			m.names.limit(name)
		}
	}
	if err != nil {
		m.forget(name)
		return err
	}
	return m.plug(ctx, name, "blockdev-add", node, dev)
}

// addNet hot-plugs n. On error it is not plugged.
func (m *machine) addNet(ctx context.Context, n clhserver.Net) (err error) {
	name := m.names.add(n.ID, "net")
	var fds []string
	defer func() {
		if err == nil {
			return
		}
		for _, fd := range fds { // those that QEMU has not taken
			_ = m.run(context.WithoutCancel(ctx), "closefd", map[string]string{"fdname": fd}, nil)
		}
	}()
	for i, tap := range n.Taps {
		fd := fmt.Sprintf("%s-%d", name, i)
		fds = append(fds, fd)
		if err = m.give(ctx, fd, tap); err != nil {
			m.forget(name)
			return err
		}
	}
	host, dev, err := netArguments(n, name, fds)
	if err != nil {
		m.forget(name)
		return err
	}
	return m.plug(ctx, name, "netdev_add", host, dev)
}

// give passes a descriptor to QEMU under a name.
func (m *machine) give(ctx context.Context, name string, f *os.File) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	return m.monitor.Run(ctx, "getfd", map[string]string{"fdname": name}, nil, f)
}

// plug makes the host side of the device that QEMU knows by name, and then the
// device.
func (m *machine) plug(ctx context.Context, name, command string, host, dev any) error {
	if err := m.run(ctx, command, host, nil); err != nil {
		if refused(err) {
			m.forget(name)
		} else {
			m.abandon(name)
		}
		return err
	}
	if err := m.run(ctx, "device_add", dev, nil); err != nil {
		m.abandon(name)
		return err
	}
	if p, ok := m.names.inQEMU(name); ok && p.kind != "memory" {
		m.expectActivation(p)
	}
	return nil
}

// refused tells whether QEMU answered and said no.
func refused(err error) bool {
	var refusal *qmp.Error
	return errors.As(err, &refusal)
}

// abandon takes back what a plug has made that failed half way. A device that is
// there against expectation, because only QEMU's answer was lost, is unplugged:
// its host side goes when the guest has let go of it.
func (m *machine) abandon(name string) {
	ctx := context.Background()
	if m.run(ctx, "device_del", map[string]string{"id": name}, nil) == nil {
		return
	}
	if p, ok := m.names.inQEMU(name); ok {
		m.release(p)
	}
}

// forget gives the name of a device back that has no host side.
func (m *machine) forget(name string) {
	if p, ok := m.names.inQEMU(name); ok {
		m.drop(p)
	}
}

// drop gives back what is left of a device whose host side is gone.
func (m *machine) drop(p plugged) {
	if p.limited {
		_ = m.run(context.Background(), "object-del", map[string]string{"id": groupName(p.name)}, nil) // nobody else uses it
	}
	m.names.remove(p)
}

// remove asks the guest to let go of the device id.
func (m *machine) remove(ctx context.Context, id string) error {
	p, ok := m.names.byID(id)
	if !ok {
		return errors.New("no such device")
	}
	if p.kind != "disk" && p.kind != "net" {
		return errors.New("only disks and network cards can be removed")
	}
	err := m.run(ctx, "device_del", map[string]string{"id": p.name}, nil)
	if p.asked && refused(err) {
		return nil // the guest has not answered the first time yet
	}
	m.names.ask(p)
	return err
}
