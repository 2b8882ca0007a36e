// Package qemu runs Cloud Hypervisor's machines in QEMU: with KVM where it
// works, by translation elsewhere. The guest sees what it would see under Cloud
// Hypervisor, virtio devices as functions 0 of bus 0, at the slots that the API
// server chose; only slot 1 is QEMU's own.
//
// One machine is one process beside this one: QEMU, spoken to over QMP on a
// socket that nobody else can reach. It dies with this process, however this
// one dies. The vsock device is here, and QEMU's by vhost-user.
package qemu

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"sync"

	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/qemu/qmp"
)

// Options say with what a machine is made. The zero value finds everything by
// itself.
type Options struct {
	QEMU  string // path of QEMU; empty: qemu-system-x86_64 in PATH
	Accel Accel  // empty: FindAccel's
}

// Backend implements clhserver.Backend.
type Backend struct {
	options Options
	events  clhserver.Events
	spawner *spawner
	closing context.Context // ends with Close
	cancel  context.CancelCauseFunc

	mu      sync.Mutex
	closed  bool
	booting sync.WaitGroup
	machine *machine // nil: none
}

var errClosed = errors.New("the backend is closed")

// New makes a backend that reports to e. It fails if a program is missing.
func New(o Options, e clhserver.Events) (*Backend, error) {
	var err error
	if o.QEMU == "" {
		if o.QEMU, err = exec.LookPath("qemu-system-x86_64"); err != nil {
			return nil, err
		}
	}
	if o.Accel == "" {
		o.Accel, _ = FindAccel()
	}
	b := &Backend{options: o, events: e, spawner: newSpawner()}
	b.closing, b.cancel = context.WithCancelCause(context.Background())
	return b, nil
}

// Features says "kvm" where the machine runs with it.
func (b *Backend) Features() []string {
	if b.options.Accel == KVM {
		return []string{"kvm"}
	}
	return []string{}
}

// MaxSegments is 1 and a bridge for each further one.
func (b *Backend) MaxSegments() int { return 1 + maxBridges }

// ReservedSlots are slot 1, the PIIX3 with its ISA bridge and ACPI functions,
// and those of the bridges.
func (b *Backend) ReservedSlots(segments int) []uint8 {
	slots := []uint8{1}
	for s := 1; s < segments; s++ {
		slots = append(slots, bridgeSlot(segments, s))
	}
	return slots
}

// Address is on the bus behind the bridge that stands for the segment.
func (b *Backend) Address(at hypervisor.BDF) hypervisor.BDF { return busAddress(at) }

// Boot starts the machine. The taps are closed here when it returns; QEMU has
// its own.
func (b *Backend) Boot(ctx context.Context, m clhserver.Machine) error {
	defer closeTaps(m.Nets...)
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return errClosed
	}
	b.booting.Add(1)
	old := b.machine
	b.mu.Unlock()
	defer b.booting.Done()

	if old != nil {
		select {
		case <-old.ended: // by itself
		default:
			return errors.New("a machine is running already")
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(b.closing, func() { cancel(errClosed) })()
	m.Nets = slices.Clone(m.Nets)
	for i, n := range m.Nets {
		m.Nets[i] = withMAC(n)
	}
	vm, err := boot(ctx, b.spawner, b.options, b.events, m)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.machine = vm // Close, if it was called, waits for us and ends it
	return nil
}

// withMAC gives n a random address if it has none; QEMU would give the same one
// to every card.
func withMAC(n clhserver.Net) clhserver.Net {
	if len(n.MAC) == 0 {
		n.MAC = make(net.HardwareAddr, 6)
		rand.Read(n.MAC)
		n.MAC[0] = n.MAC[0]&^1 | 2 // one station, locally administered
	}
	return n
}

func closeTaps(nets ...clhserver.Net) {
	for _, n := range nets {
		for _, tap := range n.Taps {
			tap.Close()
		}
	}
}

func (b *Backend) running() (*machine, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.machine == nil {
		return nil, errors.New("no machine is running")
	}
	return b.machine, nil
}

// AddDisk hot-plugs d.
func (b *Backend) AddDisk(ctx context.Context, d clhserver.Disk) error {
	vm, err := b.running()
	if err == nil {
		err = vm.addDisk(ctx, d)
	}
	if err != nil {
		return fmt.Errorf("add disk %s (%s): %w", d.ID, d.Path, err)
	}
	return nil
}

// AddNet hot-plugs n. The taps are closed here when it returns.
func (b *Backend) AddNet(ctx context.Context, n clhserver.Net) error {
	defer closeTaps(n)
	vm, err := b.running()
	if err == nil {
		err = vm.addNet(ctx, withMAC(n))
	}
	if err != nil {
		return fmt.Errorf("add network card %s: %w", n.ID, err)
	}
	return nil
}

// RemoveDevice asks the guest to let go of a disk or a network card. To ask
// again for one that the guest still has is no error.
func (b *Backend) RemoveDevice(ctx context.Context, id string) error {
	vm, err := b.running()
	if err == nil {
		err = vm.remove(ctx, id)
	}
	if err != nil {
		return fmt.Errorf("remove device %s: %w", id, err)
	}
	return nil
}

// PowerButton presses the ACPI power button.
func (b *Backend) PowerButton(ctx context.Context) error { return b.run(ctx, "system_powerdown") }

// Pause stops the processors.
func (b *Backend) Pause(ctx context.Context) error { return b.run(ctx, "stop") }

// Resume starts them again.
func (b *Backend) Resume(ctx context.Context) error { return b.run(ctx, "cont") }

func (b *Backend) run(ctx context.Context, command string) error {
	vm, err := b.running()
	if err != nil {
		return err
	}
	return vm.run(ctx, command, nil, nil)
}

// Shutdown ends the machine. Without one it does nothing.
func (b *Backend) Shutdown(ctx context.Context) error {
	b.mu.Lock()
	vm := b.machine
	b.machine = nil
	b.mu.Unlock()
	if vm == nil {
		return nil
	}
	return vm.end(ctx)
}

// Close ends the machine, also one that is just being booted, and the thread
// from which its processes hang.
func (b *Backend) Close() error {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.cancel(errClosed)
	b.booting.Wait()
	err := b.Shutdown(context.Background())
	b.spawner.close()
	return err
}

var (
	_ clhserver.Backend = (*Backend)(nil)
	_ error             = (*qmp.Error)(nil)
)
