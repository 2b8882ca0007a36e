package configuration

import (
	"fmt"
	"math"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	// BlockMiB is the step in which the memory of a running machine grows.
	BlockMiB = 128
	// defaultPeriod is the kernel's where a quota comes without one, in microseconds.
	defaultPeriod = 100_000
	// cpuGrain is what a sum of fractions of processors may be off by.
	cpuGrain = 1e-6
)

// Growth is how a machine is sized that follows its containers.
type Growth struct {
	Boot Size // without containers
	Most Size // what it can grow to

	vcpus float64 // default_vcpus
}

// Growth tells how the machines of this configuration are sized, nil if once and
// for all, by Size.
func (c *Config) Growth() (*Growth, error) {
	if c.Runtime.StaticSizing {
		return nil, nil
	}
	h := c.Hypervisor
	g := &Growth{vcpus: h.DefaultVCPUs}
	cpus := uint32(max(1, math.Ceil(h.DefaultVCPUs)))
	most := h.DefaultMaxVCPUs
	if most == 0 {
		most = max(cpus, uint32(c.hostCPUs))
	}
	g.Most.VCPUs = min(most, maxVCPUs)
	g.Boot.VCPUs = min(cpus, g.Most.VCPUs)
	g.Boot.MemoryMiB = h.DefaultMemoryMiB
	if g.Boot.MemoryMiB == 0 {
		g.Boot.MemoryMiB = allMemoryMiB
	}
	if h.Hugepages {
		g.Boot.MemoryMiB += g.Boot.MemoryMiB % hugepageMiB
	}
	if least := c.leastMemoryMiB(); g.Boot.MemoryMiB < least {
		return nil, fmt.Errorf("a machine of %d MiB does not boot: default_memory is %d MiB, a guest takes %d or more: %w",
			g.Boot.MemoryMiB, h.DefaultMemoryMiB, least, errdefs.ErrInvalidArgument)
	}
	memory := h.DefaultMaxMemoryMiB
	if memory == 0 {
		memory = max(g.Boot.MemoryMiB, c.hostMemoryMiB)
	}
	if memory < g.Boot.MemoryMiB || memory > maxMemoryMiB {
		return nil, fmt.Errorf("default_maxmemory is %d MiB: want %d (default_memory) to %d: %w",
			memory, g.Boot.MemoryMiB, uint64(maxMemoryMiB), errdefs.ErrInvalidArgument)
	}
	g.Most.MemoryMiB = g.Boot.MemoryMiB + (memory-g.Boot.MemoryMiB)/BlockMiB*BlockMiB
	return g, nil
}

// Size gives the size of the machine for the containers that run in it: the one
// place where it is decided, from these numbers alone.
//
//	vCPUs  = ceil(default_vcpus + sum of CPU limits), at least 1
//	memory = default_memory + sum of memory limits, the sum rounded up to 128 MiB
//
// A container without a limit adds nothing. More than default_maxvcpus or
// default_maxmemory is refused (ResourceExhausted), never made to fit.
func (g *Growth) Size(running []Workload) (Size, error) {
	var sum Workload
	for _, w := range running {
		sum.CPUs += w.CPUs
		sum.MemoryMiB += min(w.MemoryMiB, maxMemoryMiB)
	}
	cpus := max(1, math.Ceil(g.vcpus+sum.CPUs-cpuGrain))
	if cpus > float64(g.Most.VCPUs) {
		return Size{}, fmt.Errorf("a machine of %v processors cannot be had: the running containers' resources.limits.cpu add up to %v and default_vcpus is %v, default_maxvcpus is %d: %w",
			cpus, sum.CPUs, g.vcpus, g.Most.VCPUs, errdefs.ErrResourceExhausted)
	}
	memory := g.Boot.MemoryMiB + (sum.MemoryMiB+BlockMiB-1)/BlockMiB*BlockMiB
	if memory > g.Most.MemoryMiB {
		return Size{}, fmt.Errorf("a machine of %d MiB cannot be had: the running containers' resources.limits.memory add up to %d MiB and default_memory is %d MiB, default_maxmemory allows %d MiB: %w",
			memory, sum.MemoryMiB, g.Boot.MemoryMiB, g.Most.MemoryMiB, errdefs.ErrResourceExhausted)
	}
	return Size{VCPUs: uint32(cpus), MemoryMiB: memory}, nil
}

// Limits are what a container may use, as far as the size of a machine depends on
// it. The zero value is no limit.
type Limits struct {
	Quota, Memory int64 // microseconds per period; bytes
	Period        uint64
}

// Updated gives the limits after an update, which changes only what it names.
func (l Limits) Updated(r *specs.LinuxResources) Limits {
	if r == nil {
		return l
	}
	if c := r.CPU; c != nil {
		if c.Quota != nil {
			l.Quota = *c.Quota
		}
		if c.Period != nil && *c.Period != 0 {
			l.Period = *c.Period
		}
	}
	if r.Memory != nil && r.Memory.Limit != nil {
		l.Memory = *r.Memory.Limit
	}
	return l
}

// Workload is what a container with these limits adds to its machine.
func (l Limits) Workload() Workload {
	if l.Period == 0 {
		l.Period = defaultPeriod
	}
	return ContainerWorkload(&specs.LinuxResources{
		CPU:    &specs.LinuxCPU{Quota: &l.Quota, Period: &l.Period},
		Memory: &specs.LinuxMemory{Limit: &l.Memory},
	})
}

// hostMemory is how much memory this host has, 0 if it does not say.
func hostMemory() (mib uint64) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0
	}
	return info.Totalram * uint64(info.Unit) >> 20
}
