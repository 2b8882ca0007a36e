package sandbox

import (
	"context"
	"fmt"

	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/configuration"
	"github.com/kata-cc/kata-cc/hypervisor"
)

// sizing follows the size of a machine that grows with its containers.
type sizing struct {
	turn   chan struct{}   // holds one token: the right to resize
	has    hypervisor.Size // what the VMM gives; goes with the token
	online hypervisor.Size // what the guest has in use; goes with the token
}

func newSizing(boot hypervisor.Spec) sizing {
	size := hypervisor.Size{VCPUs: boot.VCPUs, MemoryMiB: boot.MemoryMiB}
	z := sizing{turn: make(chan struct{}, 1), has: size, online: size}
	z.turn <- struct{}{}
	return z
}

// fit gives the machine the size that its containers need, and has the guest
// bring into use what was added. A machine of a fixed size is left alone.
func (s *Sandbox) fit(ctx context.Context) error {
	if s.o.Growth == nil {
		return nil
	}
	z := &s.sizing
	select {
	case <-z.turn:
		defer func() { z.turn <- struct{}{} }()
	case <-ctx.Done():
		return fmt.Errorf("wait for a resize of the machine: %w", context.Cause(ctx))
	}
	size, err := s.o.Growth.Size(s.workloads())
	if err != nil {
		return err
	}
	want := hypervisor.Size{VCPUs: size.VCPUs, MemoryMiB: max(size.MemoryMiB, z.has.MemoryMiB)}
	if want != z.has {
		got, resizeErr := s.vm.Resize(ctx, want)
		if got.VCPUs != 0 {
			z.has = got
			z.online.VCPUs = min(z.online.VCPUs, got.VCPUs)
		}
		if resizeErr != nil {
			return resizeErr
		}
	}
	return s.bringOnline(ctx)
}

// bringOnline is asked again for what the guest refused before.
func (s *Sandbox) bringOnline(ctx context.Context) error {
	z := &s.sizing
	if z.has == z.online {
		return nil
	}
	err := s.agent.OnlineCPUMem(ctx, &agentpb.OnlineCPUMemRequest{
		NbCpus: z.has.VCPUs - z.online.VCPUs, CpuOnly: z.has.MemoryMiB == z.online.MemoryMiB,
	})
	if err != nil {
		return fmt.Errorf("bring %d vCPUs and %d MiB of memory into use: %w",
			z.has.VCPUs-z.online.VCPUs, z.has.MemoryMiB-z.online.MemoryMiB, err)
	}
	z.online = z.has
	return nil
}

// workloads are those of the containers that run, or may come to.
func (s *Sandbox) workloads() []configuration.Workload {
	type counted struct {
		init   *Process
		limits configuration.Limits
	}
	var all []counted
	s.mu.Lock()
	for _, c := range s.containers {
		if !c.removed {
			all = append(all, counted{c.init, c.limits})
		}
	}
	s.mu.Unlock()
	var running []configuration.Workload
	for _, c := range all {
		if c.init == nil || c.init.Status() != StoppedProcess {
			running = append(running, c.limits.Workload())
		}
	}
	return running
}

// fitAgain follows what was taken back or has ended. What cannot be given back is
// kept, so an error is for the log only.
func (s *Sandbox) fitAgain(ctx context.Context) {
	ctx, cancel := s.within(ctx)
	defer cancel()
	ctx, stop := context.WithTimeout(ctx, fitTimeout)
	defer stop()
	if err := s.fit(ctx); err != nil && s.life.Err() == nil {
		log.G(ctx).WithError(err).Warn("the machine keeps its size")
	}
}

// limit changes what the container may use, and gives what undoes it.
func (c *Container) limit(r *specs.LinuxResources) (undo func(context.Context)) {
	s := c.sandbox
	s.mu.Lock()
	defer s.mu.Unlock()
	before := c.limits
	c.limits = before.Updated(r)
	return func(ctx context.Context) {
		s.mu.Lock()
		c.limits = before
		s.mu.Unlock()
		s.fitAgain(ctx)
	}
}

// unlimit gives back what a container that was not created would have used.
func (c *Container) unlimit(ctx context.Context) error {
	c.sandbox.mu.Lock()
	c.limits = configuration.Limits{}
	c.sandbox.mu.Unlock()
	c.sandbox.fitAgain(ctx)
	return nil
}
