package clhserver

import (
	"context"
	"errors"

	"github.com/kata-cc/kata-cc/hypervisor/clh/api"
)

// How the memory of a running machine grows.
const (
	MemoryBlock = 128 << 20 // bytes that memory is added in multiples of
	MemorySlots = 8         // how often it can be added
)

// ErrPending is a backend's answer while the guest still lets go of processors.
var ErrPending = errors.New("vCPU removal is still pending")

// resize changes the description of a machine that is not booted as it is told.
// One that is has its processors changed first, then its memory; what was done
// stays done if the second fails. Less memory is accepted and changes only the
// description.
func (s *server) resize(ctx context.Context, req *request) (any, error) {
	var r api.VmResize
	if err := decode(req.body, &r); err != nil {
		return nil, err
	}
	v, err := s.current()
	if err != nil {
		return nil, err
	}
	booted := v.state != api.VmInfoStateCreated
	if booted {
		s.monitor.send("vm", "resizing", nil)
	}
	if r.DesiredVcpus != nil {
		if err := s.resizeCPUs(ctx, v, *r.DesiredVcpus, booted); err != nil {
			return nil, err
		}
	}
	if r.DesiredRam != nil {
		if err := s.resizeMemory(ctx, v, *r.DesiredRam, booted); err != nil {
			return nil, err
		}
	}
	if booted {
		s.monitor.send("vm", "resized", nil)
	}
	return nil, nil
}

func (s *server) resizeCPUs(ctx context.Context, v *vm, n int, booted bool) error {
	if booted && n != v.config.Cpus.BootVcpus {
		switch {
		case n > v.config.Cpus.MaxVcpus:
			return fail(other, "Error resizing the VM: desired vCPUs (%d) exceed the maximum (%d)", n, v.config.Cpus.MaxVcpus)
		case n < 1 && s.cfg.Profile.RefusesNoVCPUs:
			return fail(other, "Error resizing the VM: cannot resize to 0 vCPUs")
		}
		err := s.backend.SetVCPUs(ctx, n)
		if errors.Is(err, ErrPending) {
			return fail(pending, "Error resizing the VM: %v", err)
		}
		if err != nil {
			return fail(other, "Error resizing the VM: %v", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v.config.Cpus.BootVcpus = n
	return nil
}

func (s *server) resizeMemory(ctx context.Context, v *vm, size uint64, booted bool) error {
	now := v.config.Memory.Size
	if booted && size > now {
		more := size - now
		switch {
		case more%MemoryBlock != 0:
			return fail(other, "Error resizing the VM: memory grows by multiples of 128 MiB, not by %d bytes", more)
		case v.grown == MemorySlots:
			return fail(other, "Error resizing the VM: no hotplug slot is left of %d", MemorySlots)
		case v.added+more > value(v.config.Memory.HotplugSize):
			return fail(other, "Error resizing the VM: insufficient memory for hotplug")
		}
		if err := s.backend.AddMemory(ctx, more); err != nil {
			return fail(other, "Error resizing the VM: %v", err)
		}
		v.grown++
		v.added += more
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v.config.Memory.Size = size
	return nil
}
