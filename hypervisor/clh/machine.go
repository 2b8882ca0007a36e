package clh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/hypervisor/clh/api"
	"github.com/kata-cc/kata-cc/internal/vsock"
)

// Machine is one virtual machine and its VMM.
type Machine struct {
	spec    hypervisor.Spec // without the files of its NICs
	dir     string
	o       Options
	process *process
	api     *client
	version version
	devices *devices
	nics    []string // ids of the network cards that it boots with

	lifetime context.Context // ends with the VMM, its cause is ErrGone
	end      context.CancelCauseFunc
	workers  sync.WaitGroup // what runs for the machine besides its callers; see work
	plugging chan struct{}  // holds one token: the right to plug
	sizing   chan struct{}  // holds one token: the right to resize
	stopping chan struct{}  // holds one token: the right to stop
	stopped  bool           // all of it has been removed; goes with the token

	mu     sync.Mutex
	state  state
	asked  bool                // Stop was called before the VMM ended
	said   string              // the VMM's last line when it had booted the guest
	cause  hypervisor.ExitKind // why the machine was given up, "" if it was not
	boots  int                 // how often the guest has begun to boot
	closed bool                // no more workers
}

var _ hypervisor.VM = (*Machine)(nil)

type state int

const (
	created state = iota
	booting
	running
	failed // its boot failed; it is good for Stop only
)

func newMachine(spec hypervisor.Spec, dir string, o Options, p *process) *Machine {
	m := &Machine{spec: spec, dir: dir, o: o, process: p, plugging: make(chan struct{}, 1), sizing: make(chan struct{}, 1), stopping: make(chan struct{}, 1)}
	m.spec.NICs = nil
	m.plugging <- struct{}{}
	m.sizing <- struct{}{}
	m.stopping <- struct{}{}
	m.lifetime, m.end = context.WithCancelCause(context.Background())
	m.api = newClient(apiSocket(dir), m.lifetime)
	m.devices = newDevices()
	events := make(chan struct{})
	m.workers.Go(func() {
		defer close(events)
		_ = readEvents(p.events, m.handle) // it ends with the VMM, how does not matter
	})
	m.workers.Go(func() {
		<-p.exited
		select { // the last event says why it exited
		case <-events:
		case <-time.After(lastEventTimeout):
		}
		m.end(hypervisor.ErrGone)
	})
	return m
}

// describe tells the VMM what machine to make.
func (m *Machine) describe(ctx context.Context, spec hypervisor.Spec) error {
	p, err := m.api.ping(ctx, m.o.APITimeout)
	if err != nil {
		return err
	}
	if m.version, err = parseVersion(p.Version); err != nil {
		return err
	}
	if spec.Confidential != nil {
		if err = checkFeatures(p); err != nil {
			return err
		}
	}
	if err = m.api.create(ctx, m.o.APITimeout, vmConfig(spec, m.dir, m.o.PCISegments)); err != nil {
		return err
	}
	for _, n := range spec.NICs {
		if err = m.api.addNet(ctx, m.o.APITimeout, netConfig(n, spec.NICRate), n.Tap); err != nil {
			return fmt.Errorf("network card %s: %w", n.ID, err)
		}
		m.nics = append(m.nics, n.ID)
	}
	_, err = m.expect(ctx, api.VmInfoStateCreated)
	return err
}

// expect reads the machine's description and checks its state and protection.
func (m *Machine) expect(ctx context.Context, want api.VmInfoState) (api.VmInfo, error) {
	info, err := m.api.info(ctx, m.o.APITimeout)
	if err == nil && info.State != want {
		err = fmt.Errorf("vm.info: the machine is %s, not %s: %w", info.State, want, errdefs.ErrFailedPrecondition)
	}
	if err == nil && m.spec.Confidential != nil {
		err = checkKept(info.Config, *m.spec.Confidential)
	}
	return info, err
}

// Boot starts the guest. A machine whose boot failed is good for Stop only; the
// error ends with the last lines that guest and VMM printed.
func (m *Machine) Boot(ctx context.Context) error {
	if err := m.move(created, booting); err != nil {
		return fmt.Errorf("boot machine %s: %w", m.spec.ID, err)
	}
	if err := m.boot(ctx); err != nil {
		return errors.Join(fmt.Errorf("boot machine %s: %w", m.spec.ID, m.explain(err)), m.move(booting, failed))
	}
	return m.move(booting, running)
}

func (m *Machine) boot(ctx context.Context) error {
	if err := m.api.boot(ctx, bootLimit(m.spec, m.o.BootTimeout)); err != nil {
		return err
	}
	m.mu.Lock()
	m.said = lastLines(m.process.stderr.String(), 1)
	m.mu.Unlock()
	info, err := m.expect(ctx, api.VmInfoStateRunning)
	if err != nil {
		return err
	}
	if err := m.devices.learn(info, m.o.PCISegments, m.version); err != nil {
		return err
	}
	for _, id := range m.nics {
		if err := m.devices.adopt(id); err != nil {
			return err
		}
	}
	return nil
}

// move is a compare-and-swap of the state.
func (m *Machine) move(from, to state) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state != from {
		return fmt.Errorf("the machine is %s, not %s: %w", m.state, from, errdefs.ErrFailedPrecondition)
	}
	m.state = to
	return nil
}

// ready fails unless the machine runs.
func (m *Machine) ready() error {
	if m.lifetime.Err() != nil {
		return context.Cause(m.lifetime)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state != running {
		return fmt.Errorf("the machine is %s, not %s: %w", m.state, running, errdefs.ErrFailedPrecondition)
	}
	return nil
}

func (s state) String() string {
	return [...]string{"created", "booting", "running", "failed"}[s]
}

// explain adds to err how the VMM ended, if it did, and what was printed: the
// VMM's last lines, and of the guest's console all that was kept.
func (m *Machine) explain(err error) error {
	const lines = 20
	m.process.drain()
	if m.lifetime.Err() != nil {
		err = fmt.Errorf("%w (%s)", err, m.exit().Reason)
	}
	if text := lastLines(m.process.stderr.String(), lines); text != "" {
		err = fmt.Errorf("%w\nlast lines of the VMM:\n%s", err, text)
	}
	if text := strings.TrimRight(m.process.console.String(), "\r\n"); text != "" {
		err = fmt.Errorf("%w\nthe guest's console:\n%s", err, text)
	}
	return err
}

// Dial opens a stream to a vsock port of the guest.
func (m *Machine) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	if err := m.ready(); err != nil {
		return nil, fmt.Errorf("dial vsock port %d of machine %s: %w", port, m.spec.ID, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(m.lifetime, func() { cancel(hypervisor.ErrGone) })()
	return vsock.Dial(ctx, vsockSocket(m.dir), port)
}

// Wait blocks until the VMM has exited.
func (m *Machine) Wait(ctx context.Context) (hypervisor.Exit, error) {
	select {
	case <-m.lifetime.Done():
		return m.exit(), nil
	case <-ctx.Done():
		return hypervisor.Exit{}, context.Cause(ctx)
	}
}

// Process identifies the VMM.
func (m *Machine) Process() hypervisor.Process { return m.process.id }

// Console returns the last lines the guest printed.
func (m *Machine) Console() string { return m.process.console.String() }

// work runs f in the background, unless the machine is being removed. f is to
// end when lifetime does.
func (m *Machine) work(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.closed {
		m.workers.Go(f)
	}
}
