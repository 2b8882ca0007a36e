package shim

import (
	"maps"
	"slices"

	cgroup1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	cgroup2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/kata-cc/kata-cc/sandbox"
)

// metricsOf gives the counters of a container in the type that containerd reads
// for the cgroup version of the guest. Which one that is the counters say
// themselves: "anon" is in memory.stat of version 2 only, "cache" in that of 1.
func metricsOf(c *sandbox.Stats) proto.Message {
	memory := c.GetMemoryStats().GetStats()
	_, anon := memory["anon"]
	_, cache := memory["cache"]
	if cache && !anon {
		return metrics1(c)
	}
	return metrics2(c)
}

func metrics2(c *sandbox.Stats) *cgroup2.Metrics {
	usage, throttling := c.GetCpuStats().GetCpuUsage(), c.GetCpuStats().GetThrottlingData()
	memory := &cgroup2.MemoryStat{}
	setByName(memory.ProtoReflect(), c.GetMemoryStats().GetStats())
	memory.Usage = c.GetMemoryStats().GetUsage().GetUsage()
	memory.UsageLimit = c.GetMemoryStats().GetUsage().GetLimit()
	memory.MaxUsage = c.GetMemoryStats().GetUsage().GetMaxUsage()
	memory.SwapUsage = c.GetMemoryStats().GetSwapUsage().GetUsage()
	memory.SwapLimit = c.GetMemoryStats().GetSwapUsage().GetLimit()
	m := &cgroup2.Metrics{
		Pids: &cgroup2.PidsStat{Current: c.GetPidsStats().GetCurrent(), Limit: c.GetPidsStats().GetLimit()},
		CPU: &cgroup2.CPUStat{ // the agent counts in nanoseconds
			UsageUsec:     usage.GetTotalUsage() / 1000,
			UserUsec:      usage.GetUsageInUsermode() / 1000,
			SystemUsec:    usage.GetUsageInKernelmode() / 1000,
			NrPeriods:     throttling.GetPeriods(),
			NrThrottled:   throttling.GetThrottledPeriods(),
			ThrottledUsec: throttling.GetThrottledTime() / 1000,
		},
		Memory: memory,
		Io:     &cgroup2.IOStat{Usage: ioUsage(c.GetBlkioStats().GetIoServiceBytesRecursive())},
	}
	for _, size := range slices.Sorted(maps.Keys(c.GetHugetlbStats())) {
		h := c.GetHugetlbStats()[size]
		m.Hugetlb = append(m.Hugetlb, &cgroup2.HugeTlbStat{Current: h.GetUsage(), Max: h.GetMaxUsage(), Failcnt: h.GetFailcnt(), Pagesize: size})
	}
	return m
}

// setByName sets the number fields that have the names of counters.
func setByName(m protoreflect.Message, counters map[string]uint64) {
	fields := m.Descriptor().Fields()
	for name, value := range counters {
		if f := fields.ByName(protoreflect.Name(name)); f != nil && f.Kind() == protoreflect.Uint64Kind && !f.IsList() {
			m.Set(f, protoreflect.ValueOfUint64(value))
		}
	}
}

// ioUsage gathers the counters of version 2, which come one by one, by device.
func ioUsage(entries []*sandbox.BlockStats) []*cgroup2.IOEntry {
	var devices []*cgroup2.IOEntry
	for _, e := range entries {
		i := slices.IndexFunc(devices, func(d *cgroup2.IOEntry) bool { return d.Major == e.Major && d.Minor == e.Minor })
		if i < 0 {
			i = len(devices)
			devices = append(devices, &cgroup2.IOEntry{Major: e.Major, Minor: e.Minor})
		}
		switch e.Op {
		case "read", "rbytes":
			devices[i].Rbytes = e.Value
		case "write", "wbytes":
			devices[i].Wbytes = e.Value
		case "rios":
			devices[i].Rios = e.Value
		case "wios":
			devices[i].Wios = e.Value
		}
	}
	return devices
}

// names1 maps keys of memory.stat of version 1 to fields whose names differ.
var names1 = map[string]string{
	"pgpgin": "pg_pg_in", "pgpgout": "pg_pg_out", "pgfault": "pg_fault", "pgmajfault": "pg_maj_fault",
	"hierarchical_memsw_limit": "hierarchical_swap_limit",
	"total_pgpgin":             "total_pg_pg_in", "total_pgpgout": "total_pg_pg_out",
	"total_pgfault": "total_pg_fault", "total_pgmajfault": "total_pg_maj_fault",
}

func metrics1(c *sandbox.Stats) *cgroup1.Metrics {
	usage, throttling := c.GetCpuStats().GetCpuUsage(), c.GetCpuStats().GetThrottlingData()
	counters := map[string]uint64{}
	for name, value := range c.GetMemoryStats().GetStats() {
		if other, ok := names1[name]; ok {
			name = other
		}
		counters[name] = value
	}
	memory := &cgroup1.MemoryStat{}
	setByName(memory.ProtoReflect(), counters)
	memory.Usage = memory1(c.GetMemoryStats().GetUsage())
	memory.Swap = memory1(c.GetMemoryStats().GetSwapUsage())
	memory.Kernel = memory1(c.GetMemoryStats().GetKernelUsage())
	blkio := c.GetBlkioStats()
	m := &cgroup1.Metrics{
		Pids: &cgroup1.PidsStat{Current: c.GetPidsStats().GetCurrent(), Limit: c.GetPidsStats().GetLimit()},
		CPU: &cgroup1.CPUStat{
			Usage: &cgroup1.CPUUsage{
				Total: usage.GetTotalUsage(), Kernel: usage.GetUsageInKernelmode(), User: usage.GetUsageInUsermode(), PerCPU: usage.GetPercpuUsage(),
			},
			Throttling: &cgroup1.Throttle{
				Periods: throttling.GetPeriods(), ThrottledPeriods: throttling.GetThrottledPeriods(), ThrottledTime: throttling.GetThrottledTime(),
			},
		},
		Memory: memory,
		Blkio: &cgroup1.BlkIOStat{
			IoServiceBytesRecursive: blkio1(blkio.GetIoServiceBytesRecursive()),
			IoServicedRecursive:     blkio1(blkio.GetIoServicedRecursive()),
			IoQueuedRecursive:       blkio1(blkio.GetIoQueuedRecursive()),
			IoServiceTimeRecursive:  blkio1(blkio.GetIoServiceTimeRecursive()),
			IoWaitTimeRecursive:     blkio1(blkio.GetIoWaitTimeRecursive()),
			IoMergedRecursive:       blkio1(blkio.GetIoMergedRecursive()),
			IoTimeRecursive:         blkio1(blkio.GetIoTimeRecursive()),
			SectorsRecursive:        blkio1(blkio.GetSectorsRecursive()),
		},
	}
	for _, size := range slices.Sorted(maps.Keys(c.GetHugetlbStats())) {
		h := c.GetHugetlbStats()[size]
		m.Hugetlb = append(m.Hugetlb, &cgroup1.HugetlbStat{Usage: h.GetUsage(), Max: h.GetMaxUsage(), Failcnt: h.GetFailcnt(), Pagesize: size})
	}
	return m
}

func memory1(d *sandbox.MemoryStats) *cgroup1.MemoryEntry {
	return &cgroup1.MemoryEntry{Limit: d.GetLimit(), Usage: d.GetUsage(), Max: d.GetMaxUsage(), Failcnt: d.GetFailcnt()}
}

func blkio1(entries []*sandbox.BlockStats) []*cgroup1.BlkIOEntry {
	var all []*cgroup1.BlkIOEntry
	for _, e := range entries {
		all = append(all, &cgroup1.BlkIOEntry{Op: e.Op, Major: e.Major, Minor: e.Minor, Value: e.Value})
	}
	return all
}
