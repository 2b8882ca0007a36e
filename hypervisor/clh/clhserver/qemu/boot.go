package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/qemu/qmp"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/qemu/vhostvsock"
)

// boot starts the processes of m and then its processors. On error nothing of
// it is left.
func boot(ctx context.Context, s *spawner, o Options, e clhserver.Events, m clhserver.Machine) (_ *machine, err error) {
	images, err := inspectAll(m)
	if err != nil {
		return nil, err
	}
	vm := &machine{
		accel: o.Accel, hugepages: m.Hugepages, vcpus: m.VCPUs,
		events: e, names: newNames(), plugs: make(chan plugged), ended: make(chan struct{}),
	}
	defer vm.back.OnError(ctx, &err)

	ch, monitor, err := vm.openChannels(m)
	defer ch.close()
	if err != nil {
		return nil, err
	}
	defer monitor.Close()
	line, err := commandLine(m, o.Accel, ch, vm.names, images)
	if err != nil {
		return nil, err
	}
	defer line.close()
	if vm.qemu, err = s.start(o.QEMU, line.args, line.files); err != nil {
		return nil, err
	}
	ch.close() // else the monitor would not end with QEMU
	vm.back.Add(func(context.Context) error { vm.qemu.kill(); return nil })
	if err := vm.connect(ctx, monitor); err != nil {
		return nil, err
	}
	go vm.watch()
	for _, p := range vm.names.all() {
		vm.expectActivation(p)
	}
	return vm, nil
}

// openChannels makes the sockets between QEMU and this process and starts to
// serve all but the monitor, whose end it gives. After an error too, what is in
// ch is the caller's to close.
func (m *machine) openChannels(spec clhserver.Machine) (ch channels, monitor *os.File, err error) {
	if spec.Vsock != nil {
		if ch.vsock, err = m.startVsock(*spec.Vsock); err != nil {
			return ch, nil, fmt.Errorf("vsock device %s: %w", spec.Vsock.ID, err)
		}
	}
	if ch.serial, err = m.consoles.open("serial console", spec.Serial); err != nil {
		return ch, nil, err
	}
	if ch.virtio, err = m.consoles.open("virtio console", spec.Virtio); err != nil {
		return ch, nil, err
	}
	monitor, ch.monitor, err = socketPair("monitor")
	return ch, monitor, err
}

// startVsock starts the device in this process and gives QEMU's end of it.
func (m *machine) startVsock(v clhserver.Vsock) (*os.File, error) {
	ours, theirs, err := socketPair("vsock device")
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err == nil {
		m.vsock, err = vhostvsock.New(conn.(*net.UnixConn), vhostvsock.Options{CID: uint64(v.CID), Socket: v.Socket})
	}
	if err != nil {
		theirs.Close()
		return nil, err
	}
	m.back.Add(func(context.Context) error { m.vsock.Close(); return nil })
	return theirs, nil
}

// inspectAll looks at every file the machine needs, so that what is missing is
// told in our words before anything starts.
func inspectAll(m clhserver.Machine) ([]image, error) {
	payload := []struct{ what, path string }{{"kernel", m.Kernel}, {"initial ramdisk", m.Initramfs}}
	for _, p := range payload {
		if p.path == "" && p.what != "kernel" {
			continue
		}
		f, err := os.Open(p.path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.what, err)
		}
		f.Close()
	}
	images := make([]image, len(m.Disks))
	for i, d := range m.Disks {
		var err error
		if images[i], err = inspect(d.Path); err != nil {
			return nil, fmt.Errorf("disk %s: %w", d.ID, err)
		}
	}
	return images, nil
}

// connect starts the QMP session and then the processors.
func (m *machine) connect(ctx context.Context, monitor *os.File) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	conn, err := net.FileConn(monitor)
	if err != nil {
		return fmt.Errorf("monitor of %s: %w", m.qemu.name, err)
	}
	m.monitor, err = qmp.New(ctx, conn.(*net.UnixConn))
	if err == nil {
		m.back.Add(func(context.Context) error { m.monitor.Close(); return nil })
		err = m.monitor.Run(ctx, "cont", nil, nil)
	}
	if err == nil || ctx.Err() != nil {
		return err
	}
	// The session ended because QEMU did, and QEMU's own words tell more.
	select {
	case <-m.qemu.done:
		return m.qemu.failure()
	case <-time.After(quitTimeout):
		return errors.Join(err, fmt.Errorf("%s neither answers nor ends", m.qemu.name))
	}
}
