package configuration

import (
	"fmt"
	"math"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Annotations in which CRI gives the sum of the limits of a pod's containers.
const (
	annotationCPUPeriod = "io.kubernetes.cri.sandbox-cpu-period" // microseconds
	annotationCPUQuota  = "io.kubernetes.cri.sandbox-cpu-quota"  // microseconds
	annotationMemory    = "io.kubernetes.cri.sandbox-memory"     // bytes
)

const (
	minMemoryMiB = 96      // what a kernel with an agent needs at the very least
	allMemoryMiB = 2048    // if neither configuration nor pod says anything
	maxMemoryMiB = 1 << 25 // 32 TiB, beyond which addresses of 46 bits end
	hugepageMiB  = 2
)

// Workload is what the containers of a sandbox may use together.
type Workload struct {
	CPUs      float64 // 0: no limit
	MemoryMiB uint64  // 0: no limit

	source source
}

// source says where the limits of a workload come from, in the words of who set
// them.
type source struct{ cpu, memory string }

var (
	podSource = source{
		"the sum of the containers' resources.limits.cpu (annotation " + annotationCPUQuota + ")",
		"the sum of the containers' resources.limits.memory (annotation " + annotationMemory + ")",
	}
	containerSource = source{"the container's linux.resources.cpu", "the container's linux.resources.memory.limit"}
)

// Size is the size of a machine.
type Size struct {
	VCPUs     uint32
	MemoryMiB uint64
}

// PodWorkload reads the workload of a pod from the annotations of its pause
// container. What cannot be read counts as no limit.
func PodWorkload(annotations map[string]string) Workload {
	number := func(key string) int64 {
		n, err := strconv.ParseInt(annotations[key], 10, 64)
		if err != nil {
			return 0
		}
		return n
	}
	return workload(number(annotationCPUQuota), number(annotationCPUPeriod), number(annotationMemory), podSource)
}

// ContainerWorkload reads the workload of a container without a pod from its
// own limits.
func ContainerWorkload(r *specs.LinuxResources) Workload {
	var quota, period, memory int64
	if r != nil && r.CPU != nil && r.CPU.Quota != nil && r.CPU.Period != nil && *r.CPU.Period <= math.MaxInt64 {
		quota, period = *r.CPU.Quota, int64(*r.CPU.Period)
	}
	if r != nil && r.Memory != nil && r.Memory.Limit != nil {
		memory = *r.Memory.Limit
	}
	return workload(quota, period, memory, containerSource)
}

func workload(quota, period, memory int64, from source) Workload {
	w := Workload{source: from}
	if quota > 0 && period > 0 {
		w.CPUs = float64(quota) / float64(period)
	}
	if memory > 0 {
		w.MemoryMiB = uint64(memory) >> 20
	}
	return w
}

// Size gives the size of the machine for a workload: the one place where it is
// decided, from these numbers alone, unless the machine follows its containers (see
// Growth).
//
//	vCPUs  = ceil(default_vcpus + CPU limit), at least 1, at most default_maxvcpus
//	memory = default_memory + memory limit, 2048 MiB if both are 0; with huge
//	         pages rounded up to a whole one
//
// For a pod without a limit, static_sandbox_default_workload_vcpus and _mem take
// the limit's place. A size that no guest boots with is refused (InvalidArgument)
// by the name of what asked for it, never made to fit: a pod that does not get
// what it asks for should not start.
func (c *Config) Size(w Workload) (Size, error) {
	from := w.source
	if w.CPUs == 0 {
		w.CPUs, from.cpu = c.Runtime.DefaultWorkloadVCPUs, "static_sandbox_default_workload_vcpus"
	}
	if w.MemoryMiB == 0 {
		w.MemoryMiB, from.memory = c.Runtime.DefaultWorkloadMiB, "static_sandbox_default_workload_mem"
	}
	cpus := max(1, math.Ceil(c.Hypervisor.DefaultVCPUs+w.CPUs))
	if limit := c.Hypervisor.DefaultMaxVCPUs; limit != 0 {
		cpus = min(cpus, float64(limit))
	}
	if cpus > maxVCPUs {
		return Size{}, fmt.Errorf("a machine of %v processors cannot be had: default_vcpus is %v and %s is %v, the most is %d: %w",
			cpus, c.Hypervisor.DefaultVCPUs, from.cpu, w.CPUs, maxVCPUs, errdefs.ErrInvalidArgument)
	}
	s := Size{VCPUs: uint32(cpus), MemoryMiB: c.Hypervisor.DefaultMemoryMiB + w.MemoryMiB}
	if s.MemoryMiB == 0 {
		s.MemoryMiB = allMemoryMiB
	}
	if c.Hypervisor.Hugepages {
		s.MemoryMiB += s.MemoryMiB % hugepageMiB
	}
	if least := c.leastMemoryMiB(); s.MemoryMiB < least || s.MemoryMiB > maxMemoryMiB {
		return Size{}, fmt.Errorf("a machine of %d MiB does not boot: default_memory is %d MiB and %s is %d MiB, a guest takes %d to %d: %w",
			s.MemoryMiB, c.Hypervisor.DefaultMemoryMiB, from.memory, w.MemoryMiB, least, uint64(maxMemoryMiB), errdefs.ErrInvalidArgument)
	}
	return s, nil
}

// leastMemoryMiB is what the configured guest boots with: a kernel and an agent,
// and the initial ramdisk twice, packed and unpacked.
func (c *Config) leastMemoryMiB() uint64 {
	return minMemoryMiB + 2*uint64(c.initrdBytes+1<<20-1)>>20
}
