package cgroup

import (
	"errors"
	"os"
	"strings"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

// Stats reads the counters of the group. Times are in nanoseconds, sizes in
// bytes; a limit of "max" is 0.
func (c Cgroup) Stats() (*agentpb.CgroupStats, error) {
	cpu, err1 := c.table("cpu.stat")
	memory, err2 := c.memory()
	current, err3 := c.number("pids.current")
	limit, err4 := c.number("pids.max")
	io, err5 := c.read("io.stat")
	hugetlb, err6 := c.hugetlb()
	return &agentpb.CgroupStats{
		CpuStats: &agentpb.CpuStats{
			// The kernel counts in microseconds.
			CpuUsage: &agentpb.CpuUsage{
				TotalUsage: cpu["usage_usec"] * 1000, UsageInUsermode: cpu["user_usec"] * 1000, UsageInKernelmode: cpu["system_usec"] * 1000,
			},
			ThrottlingData: &agentpb.ThrottlingData{
				Periods: cpu["nr_periods"], ThrottledPeriods: cpu["nr_throttled"], ThrottledTime: cpu["throttled_usec"] * 1000,
			},
		},
		MemoryStats:  memory,
		PidsStats:    &agentpb.PidsStats{Current: current, Limit: limit},
		BlkioStats:   &agentpb.BlkioStats{IoServiceBytesRecursive: ParseIO(io)},
		HugetlbStats: hugetlb,
	}, errors.Join(err1, err2, err3, err4, err5, err6)
}

func (c Cgroup) memory() (*agentpb.MemoryStats, error) {
	stats, err1 := c.table("memory.stat")
	usage, err2 := c.number("memory.current")
	peak, err3 := c.number("memory.peak")
	limit, err4 := c.number("memory.max")
	swap, err5 := c.number("memory.swap.current")
	swapLimit, err6 := c.number("memory.swap.max")
	events, err7 := c.table("memory.events")
	return &agentpb.MemoryStats{
		Cache:        stats["file"],
		Usage:        &agentpb.MemoryData{Usage: usage, MaxUsage: peak, Limit: limit, Failcnt: events["max"]},
		SwapUsage:    &agentpb.MemoryData{Usage: swap, Limit: swapLimit},
		KernelUsage:  &agentpb.MemoryData{Usage: stats["kernel"]},
		UseHierarchy: true, // v2 has no other way
		Stats:        stats,
	}, errors.Join(err1, err2, err3, err4, err5, err6, err7)
}

// hugetlb reads the usage per page size, by the kernel's spelling of it ("2MB").
func (c Cgroup) hugetlb() (map[string]*agentpb.HugetlbStats, error) {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return nil, err
	}
	stats := make(map[string]*agentpb.HugetlbStats)
	var errs []error
	for _, e := range entries {
		size, ok := strings.CutPrefix(e.Name(), "hugetlb.")
		size, current := strings.CutSuffix(size, ".current")
		if !ok || !current || strings.Contains(size, ".") {
			continue
		}
		usage, err1 := c.number(e.Name())
		limit, err2 := c.table("hugetlb." + size + ".events")
		errs = append(errs, err1, err2)
		stats[size] = &agentpb.HugetlbStats{Usage: usage, Failcnt: limit["max"]}
	}
	return stats, errors.Join(errs...)
}
