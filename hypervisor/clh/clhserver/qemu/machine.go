package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/qemu/qmp"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/qemu/vhostvsock"
	"github.com/kata-cc/kata-cc/internal/undo"
)

// machine is one run of QEMU. Its end has one owner, watch; everybody else asks
// for it and waits for ended.
type machine struct {
	events   clhserver.Events
	qemu     *process
	vsock    *vhostvsock.Device // nil without one
	monitor  *qmp.Client
	names    *names
	consoles consoles
	back     undo.Stack // everything that is to be given back

	accel     Accel
	hugepages bool
	vcpus     int // what the guest may have in use
	dimms     int // how often memory was added

	sizing  sync.Mutex
	leaving []string // QOM paths of the processors that the guest was asked to let go of

	asked      atomic.Bool // the end was asked for, so it is not an event
	poweredOff bool        // watch's own
	lastReset  time.Time   // watch's own
	plugs      chan plugged
	watchers   sync.WaitGroup
	ended      chan struct{} // closed when everything has been given back
	endErr     error         // what could not be given back; valid once ended is closed
}

// run executes a QMP command within commandTimeout.
func (m *machine) run(ctx context.Context, name string, arguments, result any) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	return m.monitor.Run(ctx, name, arguments, result)
}

// watch handles QEMU's events until it has ended, gives back what is left and
// reports an end that nobody asked for.
func (m *machine) watch() {
	m.watchers.Go(m.watchActivation)
	if m.vsock != nil {
		m.watchers.Go(func() {
			<-m.vsock.Done()
			if err := m.vsock.Err(); err != nil && !errors.Is(err, vhostvsock.ErrHungUp) {
				m.qemu.kill() // without the device its guest is out of reach
			}
		})
	}
	for {
		e, err := m.monitor.Next()
		if err != nil {
			break
		}
		m.handle(e)
	}
	select {
	case <-m.qemu.done:
	case <-time.After(quitTimeout): // it hung up, but does not end
		m.qemu.kill()
	}
	failure := m.qemu.failure()
	if m.vsock != nil {
		if err := m.vsock.Err(); err != nil && !errors.Is(err, vhostvsock.ErrHungUp) {
			failure = err
		}
		m.vsock.Close()
	}
	m.watchers.Wait()
	m.consoles.drain()
	m.endErr = m.back.Run(context.Background())
	close(m.ended)
	switch {
	case m.asked.Load():
	case m.poweredOff:
		m.events.PoweredOff()
	default:
		m.events.Died(failure)
	}
}

// handle acts on one of QEMU's events. Source: QEMU's qapi/run-state.json and
// qapi/qdev.json.
func (m *machine) handle(e qmp.Event) {
	var data struct {
		Guest  bool   `json:"guest"`
		Device string `json:"device"` // absent for devices inside a device
	}
	if e.Data != nil && json.Unmarshal(e.Data, &data) != nil {
		return
	}
	switch e.Name {
	case "SHUTDOWN":
		m.poweredOff = m.poweredOff || data.Guest
	case "RESET":
		if data.Guest {
			m.guestReset()
		}
	case "GUEST_PANICKED":
		m.events.Panicked()
	case "DEVICE_DELETED":
		if p, ok := m.names.inQEMU(data.Device); ok && data.Device != "" {
			m.release(p)
			m.events.DeviceRemoved(p.id)
		}
	}
}

// guestReset follows the guest into its next boot. Linux resets a machine in one
// way after the other, so that several resets are one reboot.
func (m *machine) guestReset() {
	again := time.Since(m.lastReset) < resetGap
	m.lastReset = time.Now()
	if again {
		return
	}
	if m.vsock != nil {
		m.vsock.Reset()
	}
	m.events.Rebooted()
	m.unplugAgain()
	for _, p := range m.names.all() {
		if p.kind != "memory" {
			m.expectActivation(p)
		}
	}
}

// release gives back the host side of a device that the guest let go of.
func (m *machine) release(p plugged) {
	command, arguments := "blockdev-del", map[string]string{"node-name": p.name}
	switch p.kind {
	case "net":
		command, arguments = "netdev_del", map[string]string{"id": p.name}
	case "memory":
		command, arguments = "object-del", map[string]string{"id": p.name}
	}
	ctx, cancel := context.WithTimeout(context.Background(), releaseTimeout)
	defer cancel()
	for m.monitor.Run(ctx, command, arguments, nil) != nil {
		// The device's last request may still hold the node.
		select {
		case <-time.After(activationPoll):
			continue
		case <-ctx.Done():
		case <-m.monitor.Done():
		}
		break
	}
	m.drop(p)
}

// end asks QEMU to end, makes it, and waits until all is given back.
func (m *machine) end(ctx context.Context) error {
	m.asked.Store(true)
	quit, cancel := context.WithTimeout(ctx, quitTimeout)
	defer cancel()
	_ = m.monitor.Run(quit, "quit", nil, nil) // fails only if it has ended
	select {
	case <-m.qemu.done:
	case <-quit.Done():
		m.qemu.kill()
	}
	<-m.ended
	return m.endErr
}
