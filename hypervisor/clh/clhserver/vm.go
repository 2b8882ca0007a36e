package clhserver

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/hypervisor/clh/api"
)

// vm is what vm.create made. Its fields are guarded by the server's mu; only
// an operation that has its turn writes config, state and consoles.
type vm struct {
	config  api.VmConfig
	state   api.VmInfoState
	grown   int    // how often memory was added since it booted
	added   uint64 // bytes of it
	named   int    // how many devices have been named automatically
	devices map[string]*device
	slots   slots
	address func(hypervisor.BDF) hypervisor.BDF // where the guest finds a slot; set once booted
	taps    map[string][]*os.File               // of each NIC, kept for a reboot, by its index or id
	serial  Console
	virtio  Console
	files   []*os.File // opened for the consoles
}

// device is a node of the device tree.
type device struct {
	at       *hypervisor.BDF // nil for what is not on the PCI bus
	removing bool
}

func (s *server) current() (*vm, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.vm == nil {
		return nil, errNotCreated
	}
	return s.vm, nil
}

// running returns the VM if it is in one of the states.
func (s *server) running(states ...api.VmInfoState) (*vm, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.vm == nil || s.vm.state == api.VmInfoStateCreated {
		return nil, errNotRunning
	}
	for _, st := range states {
		if s.vm.state == st {
			return s.vm, nil
		}
	}
	return nil, fail(other, "Invalid VM state transition: the VM is %s", s.vm.state)
}

func (s *server) setState(st api.VmInfoState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.vm.state = st
}

func (s *server) ping(context.Context, *request) (any, error) {
	pid := int64(os.Getpid())
	features := s.backend.Features()
	build := "v" + s.cfg.Profile.Version
	return api.VmmPingResponse{BuildVersion: &build, Version: s.cfg.Profile.Version, Pid: &pid, Features: &features}, nil
}

func (s *server) shutdownVMM(ctx context.Context, _ *request) (any, error) {
	return nil, s.deleteVM(ctx)
}

func (s *server) create(_ context.Context, req *request) (any, error) {
	var c api.VmConfig
	if err := decode(req.body, &c); err != nil {
		return nil, err
	}
	s.mu.Lock()
	exists := s.vm != nil
	s.mu.Unlock()
	if exists {
		return nil, fail(other, "VM is already created")
	}
	fillDefaults(&c)
	forgetUnbuilt(&c, s.backend.Features())
	v := &vm{config: c, state: api.VmInfoStateCreated, devices: map[string]*device{}, taps: map[string][]*os.File{}}
	err := v.openConsoles(s.cfg.Stdout)
	// As in the original the description stays even where the consoles failed.
	s.mu.Lock()
	s.vm = v
	s.mu.Unlock()
	return nil, err
}

func (s *server) boot(ctx context.Context, _ *request) (any, error) {
	v, err := s.current()
	if err != nil {
		return nil, fail(notCreated, "VM config is missing")
	}
	switch {
	case v.state == api.VmInfoStatePaused && s.cfg.Profile.BootResumes:
		return s.resume(ctx, nil)
	case v.state != api.VmInfoStateCreated && s.cfg.Profile.BootResumes:
		return nil, fail(other, "Invalid VM state transition: the VM is %s", v.state)
	case v.state != api.VmInfoStateCreated:
		return nil, fail(other, "VM is already created")
	}
	if err := s.validate(&v.config); err != nil {
		return nil, err
	}
	s.monitor.send("vm", "booting", nil)
	if err := s.start(ctx, v); err != nil {
		return nil, err
	}
	s.monitor.send("vm", "booted", nil)
	return nil, nil
}

// start builds the machine of v and has it booted.
func (s *server) start(ctx context.Context, v *vm) error {
	m, err := s.build(v)
	if err != nil {
		return err
	}
	if err := s.backend.Boot(ctx, m); err != nil {
		s.mu.Lock()
		v.devices = map[string]*device{}
		s.mu.Unlock()
		return fail(other, "Error booting the VM: %v", err)
	}
	s.setState(api.VmInfoStateRunning)
	return nil
}

func (s *server) pause(ctx context.Context, _ *request) (any, error) {
	if _, err := s.running(api.VmInfoStateRunning); err != nil {
		return nil, err
	}
	s.monitor.send("vm", "pausing", nil)
	if err := s.backend.Pause(ctx); err != nil {
		return nil, fail(other, "Error pausing the VM: %v", err)
	}
	s.setState(api.VmInfoStatePaused)
	s.monitor.send("vm", "paused", nil)
	return nil, nil
}

func (s *server) resume(ctx context.Context, _ *request) (any, error) {
	if _, err := s.running(api.VmInfoStatePaused); err != nil {
		return nil, err
	}
	s.monitor.send("vm", "resuming", nil)
	if err := s.backend.Resume(ctx); err != nil {
		return nil, fail(other, "Error resuming the VM: %v", err)
	}
	s.setState(api.VmInfoStateRunning)
	s.monitor.send("vm", "resumed", nil)
	return nil, nil
}

func (s *server) powerButton(ctx context.Context, _ *request) (any, error) {
	if _, err := s.running(api.VmInfoStateRunning, api.VmInfoStatePaused); err != nil {
		return nil, err
	}
	if err := s.backend.PowerButton(ctx); err != nil {
		return nil, fail(other, "Error pressing the power button: %v", err)
	}
	return nil, nil
}

func (s *server) shutdownVM(ctx context.Context, _ *request) (any, error) {
	v, err := s.running(api.VmInfoStateRunning, api.VmInfoStatePaused)
	if err != nil {
		return nil, err
	}
	return nil, s.stop(ctx, v)
}

// stop ends the running machine. Whatever fails, it is no longer there.
func (s *server) stop(ctx context.Context, v *vm) error {
	err := s.backend.Shutdown(ctx)
	s.mu.Lock()
	v.state = api.VmInfoStateCreated
	v.devices = map[string]*device{}
	v.grown, v.added = 0, 0
	s.mu.Unlock()
	s.monitor.send("vm", "shutdown", nil)
	if err != nil {
		return fail(other, "Error shutting down the VM: %v", err)
	}
	return nil
}

func (s *server) reboot(ctx context.Context, _ *request) (any, error) {
	v, err := s.current()
	if err != nil {
		return nil, err
	}
	if v.state == api.VmInfoStateCreated {
		return nil, errNotCreated
	}
	s.monitor.send("vm", "rebooting", nil)
	if err := s.stop(ctx, v); err != nil {
		return nil, err
	}
	if err := s.start(ctx, v); err != nil {
		return nil, err
	}
	s.monitor.send("vm", "rebooted", nil)
	return nil, nil
}

func (s *server) delete(ctx context.Context, _ *request) (any, error) {
	return nil, s.deleteVM(ctx)
}

// deleteVM forgets the VM, which it ends first. Without a VM it does nothing.
func (s *server) deleteVM(ctx context.Context) error {
	v, err := s.current()
	if err != nil {
		return nil
	}
	if v.state != api.VmInfoStateCreated {
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		err = s.stop(stopCtx, v)
		cancel()
	}
	s.mu.Lock()
	s.vm = nil
	s.mu.Unlock()
	for _, taps := range v.taps {
		closeAll(taps)
	}
	closeAll(v.files)
	s.monitor.send("vm", "deleted", nil)
	return err
}

// events is what the backend reports to.
type events struct{ *server }

func (e events) Activated(id string) {
	e.monitor.send("virtio-device", "activated", map[string]string{"id": id})
}

func (e events) DeviceRemoved(id string) {
	e.mu.Lock()
	v := e.vm
	var d *device
	if v != nil {
		d = v.devices[id]
		delete(v.devices, id)
		if d != nil && d.at != nil {
			v.slots.free(*d.at)
		}
	}
	e.mu.Unlock()
	if d != nil && d.at != nil {
		e.monitor.send("vm", "device-removed", map[string]string{"id": id, "bdf": v.address(*d.at).String()})
	}
}

func (e events) Rebooted() {
	e.monitor.send("vm", "rebooting", nil)
	e.monitor.send("vm", "rebooted", nil)
}

func (e events) Panicked() {
	e.monitor.send("guest", "panic", map[string]string{"event": "panic"})
}

func (e events) PoweredOff() { e.exit() }

func (e events) Died(err error) {
	if err == nil {
		err = errors.New("no reason known")
	}
	fmt.Fprintf(os.Stderr, "the machine died: %v\n", err)
	e.exit()
}
