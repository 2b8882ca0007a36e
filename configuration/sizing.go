package configuration

import (
	"math"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Annotations in which CRI gives the sum of the limits of a pod's containers.
const (
	annotationCPUPeriod = "io.kubernetes.cri.sandbox-cpu-period" // microseconds
	annotationCPUQuota  = "io.kubernetes.cri.sandbox-cpu-quota"  // microseconds
	annotationMemory    = "io.kubernetes.cri.sandbox-memory"     // bytes
)

const (
	minMemoryMiB = 64   // what a kernel with an agent needs at the very least
	allMemoryMiB = 2048 // if neither configuration nor pod says anything
)

// Workload is what the containers of a sandbox may use together.
type Workload struct {
	CPUs      float64 // 0: no limit
	MemoryMiB uint64  // 0: no limit
}

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
	return workload(number(annotationCPUQuota), number(annotationCPUPeriod), number(annotationMemory))
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
	return workload(quota, period, memory)
}

func workload(quota, period, memory int64) Workload {
	var w Workload
	if quota > 0 && period > 0 {
		w.CPUs = float64(quota) / float64(period)
	}
	if memory > 0 {
		w.MemoryMiB = uint64(memory) >> 20
	}
	return w
}

// Size gives the size of the machine for a workload. It is decided once: a
// machine is not resized while it runs.
//
//	vCPUs  = ceil(default_vcpus + CPU limit), at least 1, at most default_maxvcpus
//	memory = default_memory + memory limit, at least 64 MiB, 2048 MiB if both are 0
//
// For a pod without a limit, static_sandbox_default_workload_vcpus and _mem take
// the limit's place.
func (c *Config) Size(w Workload) Size {
	if w.CPUs == 0 {
		w.CPUs = c.Runtime.DefaultWorkloadVCPUs
	}
	if w.MemoryMiB == 0 {
		w.MemoryMiB = c.Runtime.DefaultWorkloadMiB
	}
	cpus := max(1, math.Ceil(c.Hypervisor.DefaultVCPUs+w.CPUs))
	limit := uint32(maxVCPUs)
	if c.Hypervisor.DefaultMaxVCPUs != 0 {
		limit = min(limit, c.Hypervisor.DefaultMaxVCPUs)
	}
	s := Size{VCPUs: limit, MemoryMiB: c.Hypervisor.DefaultMemoryMiB + w.MemoryMiB}
	if cpus < float64(limit) {
		s.VCPUs = uint32(cpus)
	}
	if s.MemoryMiB == 0 {
		s.MemoryMiB = allMemoryMiB
	}
	s.MemoryMiB = max(s.MemoryMiB, minMemoryMiB)
	return s
}
