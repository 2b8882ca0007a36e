package clh

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/containerd/errdefs"

	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/hypervisor/clh/api"
)

// blockMiB is the step in which the VMM adds memory.
const blockMiB = 128

// Resize makes the machine that size, as far as it grows; see hypervisor.VM. What
// it has now is what the VMM says, which keeps its description up to date.
func (m *Machine) Resize(ctx context.Context, want hypervisor.Size) (hypervisor.Size, error) {
	got, err := m.resize(ctx, want)
	if err != nil {
		return got, fmt.Errorf("resize machine %s to %d vCPUs and %d MiB: %w", m.spec.ID, want.VCPUs, want.MemoryMiB, err)
	}
	return got, nil
}

func (m *Machine) resize(ctx context.Context, want hypervisor.Size) (now hypervisor.Size, err error) {
	if err = m.ready(); err != nil {
		return now, err
	}
	select {
	case <-m.sizing:
		defer func() { m.sizing <- struct{}{} }()
	case <-ctx.Done():
		return now, context.Cause(ctx)
	}
	if now, err = m.size(ctx); err != nil {
		return now, err
	}
	if want.MemoryMiB > now.MemoryMiB { // less would only make the VMM's description wrong
		want.MemoryMiB = now.MemoryMiB + (want.MemoryMiB-now.MemoryMiB+blockMiB-1)/blockMiB*blockMiB
	}
	most := hypervisor.Size{VCPUs: max(m.spec.VCPUs, m.spec.MaxVCPUs), MemoryMiB: max(m.spec.MemoryMiB, m.spec.MaxMemoryMiB)}
	if want.VCPUs == 0 || want.VCPUs > most.VCPUs || want.MemoryMiB > most.MemoryMiB {
		return now, fmt.Errorf("it has 1 to %d vCPUs and at most %d MiB: %w", most.VCPUs, most.MemoryMiB, errdefs.ErrResourceExhausted)
	}
	if want.MemoryMiB > now.MemoryMiB {
		bytes := want.MemoryMiB << 20
		if err = m.api.resize(ctx, m.o.HotplugTimeout, api.VmResize{DesiredRam: &bytes}); err != nil {
			return now, refused(err)
		}
		now.MemoryMiB = want.MemoryMiB
	}
	if want.VCPUs == now.VCPUs {
		return now, nil
	}
	err = m.setVCPUs(ctx, want.VCPUs, want.VCPUs > now.VCPUs)
	var no *APIError
	switch {
	case err == nil:
		now.VCPUs = want.VCPUs
	case want.VCPUs < now.VCPUs && errors.As(err, &no): // they stay
		return now, nil
	}
	return now, refused(err)
}

// setVCPUs waits, if it matters, for the guest to let go of processors that were
// taken away before: until then the VMM changes nothing.
func (m *Machine) setVCPUs(ctx context.Context, n uint32, matters bool) error {
	deadline := time.Now().Add(resizeTimeout)
	for {
		err := m.api.resize(ctx, m.o.HotplugTimeout, api.VmResize{DesiredVcpus: ptr(int(n))})
		var no *APIError
		if !matters || !errors.As(err, &no) || no.Status != m.version.pending() || time.Now().After(deadline) {
			return err
		}
		select {
		case <-time.After(resizePause):
		case <-ctx.Done():
			return fmt.Errorf("%w; before that: %s", context.Cause(ctx), no.Error())
		case <-m.lifetime.Done():
			return context.Cause(m.lifetime)
		}
	}
}

// size asks the VMM what the machine has.
func (m *Machine) size(ctx context.Context) (hypervisor.Size, error) {
	info, err := m.expect(ctx, api.VmInfoStateRunning)
	if err != nil {
		return hypervisor.Size{}, err
	}
	if info.Config.Cpus == nil || info.Config.Memory == nil || info.Config.Cpus.BootVcpus < 1 {
		return hypervisor.Size{}, fmt.Errorf("vm.info does not tell the machine's size: %w", errdefs.ErrDataLoss)
	}
	return hypervisor.Size{VCPUs: uint32(info.Config.Cpus.BootVcpus), MemoryMiB: info.Config.Memory.Size >> 20}, nil
}

// refused gives the VMM's no to a resize its class: it has no more to give.
func refused(err error) error {
	var no *APIError
	if errors.As(err, &no) && (no.Status == http.StatusInternalServerError || no.Status == http.StatusTooManyRequests) {
		return fmt.Errorf("%w: %s", errdefs.ErrResourceExhausted, no.Error())
	}
	return err
}
