// Package memory is a machine without a guest behind Cloud Hypervisor's API:
// it boots at once, opens what it is given, and does for a guest what a Script
// says. With it everything above the VMM is tested over real sockets, in
// milliseconds and on any machine, and made to fail at any point.
//
// The program clh-memory is started exactly like cloud-hypervisor. A test
// binary can be the VMM itself:
//
//	func TestMain(m *testing.M) {
//		memory.Exec() // does not return in a process started as VMM
//		os.Exit(m.Run())
//	}
package memory

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver"
)

// Backend is a machine in memory.
type Backend struct {
	script Script
	events clhserver.Events
	locks  bool // disks' files are locked

	mu      sync.Mutex
	devices map[string][]*os.File // what each device holds open until ejected
	vsock   *listener
	vcpus   int
	leaving bool // the guest still lets go of processors
	timers  []*time.Timer
	closed  bool
}

// New makes backends that follow the script.
func New(s Script) clhserver.NewBackend {
	return func(e clhserver.Events) (clhserver.Backend, error) {
		if err := s.check(); err != nil {
			return nil, err
		}
		profile, err := clhserver.ProfileOf(s.Version)
		if err != nil {
			return nil, err
		}
		return &Backend{script: s, events: e, locks: profile.Locks, devices: map[string][]*os.File{}}, nil
	}
}

// Features names the backend, so that nobody takes it for a machine.
func (b *Backend) Features() []string { return append([]string{"memory"}, b.script.Features...) }

// MaxSegments is what the original has.
func (b *Backend) MaxSegments() int { return 96 }

// ReservedSlots are the script's.
func (b *Backend) ReservedSlots(int) []uint8 { return b.script.Reserved }

// Address is the slot itself.
func (b *Backend) Address(at hypervisor.BDF) hypervisor.BDF { return at }

// Boot opens the payload and the devices, binds the vsock socket and prints the
// guest's first words.
func (b *Backend) Boot(ctx context.Context, m clhserver.Machine) (err error) {
	for _, n := range m.Nets {
		b.hold(n.ID, n.Taps...)
	}
	defer func() {
		if err != nil {
			b.release()
		}
	}()
	for _, path := range []string{m.Kernel, m.Initramfs, m.IGVM} {
		if path == "" {
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("open payload: %w", err)
		}
		f.Close()
	}
	for _, d := range m.Disks {
		if err := b.open(d); err != nil {
			return err
		}
	}
	b.mu.Lock()
	b.vcpus, b.leaving = m.VCPUs, false
	b.mu.Unlock()
	say(m.Serial, b.script.Console)
	if b.script.BootError != "" {
		return fmt.Errorf("%s", b.script.BootError)
	}
	if m.Vsock != nil {
		v, err := listen(m.Vsock.Socket, b.script)
		if err != nil {
			return err
		}
		b.mu.Lock()
		b.vsock = v
		b.mu.Unlock()
		b.events.Activated(m.Vsock.ID)
	}
	for _, d := range m.Disks {
		b.events.Activated(d.ID)
	}
	b.play(m)
	return nil
}

// play arranges what the guest does later.
func (b *Backend) play(m clhserver.Machine) {
	for _, step := range b.script.Guest {
		b.later(step.After, func() {
			switch step.Do {
			case "poweroff":
				b.events.PoweredOff()
			case "reboot":
				b.events.Rebooted()
			case "panic":
				b.events.Panicked()
			case "die":
				b.events.Died(fmt.Errorf("%s", step.Text))
			case "print":
				say(m.Serial, step.Text)
			case "exit":
				exit(step.Status, step.Text)
			case "kill":
				kill(step.Signal, step.Text)
			}
		})
	}
}

// say writes to the console; a guest does not care whether anybody reads it.
func say(c clhserver.Console, text string) {
	if c.Out != nil {
		_, _ = io.WriteString(c.Out, text)
	}
}

func (b *Backend) later(d Duration, f func()) {
	if d == Never {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	b.timers = append(b.timers, time.AfterFunc(time.Duration(d), f))
}

func (b *Backend) open(d clhserver.Disk) error {
	flags := os.O_RDWR
	if d.ReadOnly {
		flags = os.O_RDONLY
	}
	f, err := os.OpenFile(d.Path, flags, 0)
	if err != nil {
		return fmt.Errorf("open disk %s: %w", d.ID, err)
	}
	if b.locks {
		if err := lock(f, d.ReadOnly); err != nil {
			f.Close()
			return fmt.Errorf("lock disk %s (another instance likely holds a lock): %w", d.ID, err)
		}
	}
	b.hold(d.ID, f)
	return nil
}

// lock locks the whole file as versions from 46 on do: for the open file, so
// that a second disk on it is held to the lock too.
func lock(f *os.File, readOnly bool) error {
	l := unix.Flock_t{Type: unix.F_WRLCK}
	if readOnly {
		l.Type = unix.F_RDLCK
	}
	return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &l)
}

func (b *Backend) hold(id string, files ...*os.File) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.devices[id] = append(b.devices[id], files...)
}

func (b *Backend) drop(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range b.devices[id] {
		f.Close()
	}
	delete(b.devices, id)
}

// AddDisk opens the disk and keeps it open until it is ejected.
func (b *Backend) AddDisk(_ context.Context, d clhserver.Disk) error {
	if err := b.open(d); err != nil {
		return err
	}
	b.events.Activated(d.ID)
	return nil
}

// AddNet keeps the taps until the card is ejected.
func (b *Backend) AddNet(_ context.Context, n clhserver.Net) error {
	b.hold(n.ID, n.Taps...)
	b.events.Activated(n.ID)
	return nil
}

// RemoveDevice ejects after the script's time.
func (b *Backend) RemoveDevice(_ context.Context, id string) error {
	b.later(b.script.Eject, func() {
		b.drop(id)
		b.events.DeviceRemoved(id)
	})
	return nil
}

// SetVCPUs counts processors; those taken away leave after the script's time.
func (b *Backend) SetVCPUs(_ context.Context, n int) error {
	b.mu.Lock()
	if b.leaving {
		b.mu.Unlock()
		return clhserver.ErrPending
	}
	fewer := n < b.vcpus
	b.vcpus, b.leaving = n, fewer && b.script.EjectCPUs != 0
	wait := b.leaving
	b.mu.Unlock()
	if wait {
		b.later(b.script.EjectCPUs, func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.leaving = false
		})
	}
	return nil
}

// AddMemory does nothing: nobody uses it.
func (b *Backend) AddMemory(context.Context, uint64) error { return nil }

// PowerButton makes the guest power itself off.
func (b *Backend) PowerButton(context.Context) error {
	b.later(0, b.events.PoweredOff)
	return nil
}

// Pause does nothing: nothing runs.
func (b *Backend) Pause(context.Context) error { return nil }

// Resume does nothing.
func (b *Backend) Resume(context.Context) error { return nil }

// Shutdown closes what Boot and the hot-plugs opened.
func (b *Backend) Shutdown(context.Context) error {
	b.release()
	return nil
}

func (b *Backend) release() {
	b.mu.Lock()
	v := b.vsock
	b.vsock = nil
	for _, t := range b.timers {
		t.Stop()
	}
	b.timers = nil
	for id, files := range b.devices {
		for _, f := range files {
			f.Close()
		}
		delete(b.devices, id)
	}
	b.mu.Unlock()
	if v != nil {
		v.close()
	}
}

// Close ends the machine.
func (b *Backend) Close() error {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.release()
	return nil
}
