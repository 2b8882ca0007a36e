package shim

import (
	"testing"

	cgroup1 "github.com/containerd/cgroups/v3/cgroup1/stats"
	cgroup2 "github.com/containerd/cgroups/v3/cgroup2/stats"
	"google.golang.org/protobuf/proto"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

func counters(memory map[string]uint64) *agentpb.CgroupStats {
	return &agentpb.CgroupStats{
		CpuStats: &agentpb.CpuStats{
			CpuUsage:       &agentpb.CpuUsage{TotalUsage: 3_000_000, UsageInKernelmode: 1_000_000, UsageInUsermode: 2_000_000, PercpuUsage: []uint64{3_000_000}},
			ThrottlingData: &agentpb.ThrottlingData{Periods: 4, ThrottledPeriods: 5, ThrottledTime: 6000},
		},
		MemoryStats: &agentpb.MemoryStats{
			Usage:     &agentpb.MemoryData{Usage: 10, MaxUsage: 11, Failcnt: 12, Limit: 13},
			SwapUsage: &agentpb.MemoryData{Usage: 20, Limit: 23},
			Stats:     memory,
		},
		PidsStats: &agentpb.PidsStats{Current: 30, Limit: 31},
		BlkioStats: &agentpb.BlkioStats{IoServiceBytesRecursive: []*agentpb.BlkioStatsEntry{
			{Major: 254, Minor: 0, Op: "read", Value: 40}, {Major: 254, Minor: 0, Op: "wios", Value: 41}, {Major: 254, Minor: 16, Op: "write", Value: 42},
		}},
		HugetlbStats: map[string]*agentpb.HugetlbStats{"2MB": {Usage: 50, MaxUsage: 51, Failcnt: 52}},
	}
}

func TestMetricsOfVersion2(t *testing.T) {
	want := &cgroup2.Metrics{
		Pids: &cgroup2.PidsStat{Current: 30, Limit: 31},
		CPU:  &cgroup2.CPUStat{UsageUsec: 3000, UserUsec: 2000, SystemUsec: 1000, NrPeriods: 4, NrThrottled: 5, ThrottledUsec: 6},
		Memory: &cgroup2.MemoryStat{
			Anon: 60, InactiveFile: 61, Usage: 10, UsageLimit: 13, MaxUsage: 11, SwapUsage: 20, SwapLimit: 23,
		},
		Io:      &cgroup2.IOStat{Usage: []*cgroup2.IOEntry{{Major: 254, Rbytes: 40, Wios: 41}, {Major: 254, Minor: 16, Wbytes: 42}}},
		Hugetlb: []*cgroup2.HugeTlbStat{{Current: 50, Max: 51, Failcnt: 52, Pagesize: "2MB"}},
	}
	if got := metricsOf(counters(map[string]uint64{"anon": 60, "inactive_file": 61, "unknown": 62})); !proto.Equal(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
}

func TestMetricsOfVersion1(t *testing.T) {
	got, ok := metricsOf(counters(map[string]uint64{"cache": 60, "total_inactive_file": 61, "pgfault": 62})).(*cgroup1.Metrics)
	if !ok {
		t.Fatal("not of version 1")
	}
	if u := got.CPU.Usage; u.Total != 3_000_000 || u.Kernel != 1_000_000 || u.User != 2_000_000 || len(u.PerCPU) != 1 {
		t.Errorf("CPU %v", u)
	}
	if m := got.Memory; m.Cache != 60 || m.TotalInactiveFile != 61 || m.PgFault != 62 || m.Usage.Limit != 13 || m.Swap.Usage != 20 {
		t.Errorf("memory %v", m)
	}
	if len(got.Blkio.IoServiceBytesRecursive) != 3 {
		t.Errorf("block devices %v", got.Blkio)
	}
}

func TestMetricsOfNothing(t *testing.T) {
	if got := metricsOf(nil); got == nil {
		t.Error("none")
	}
}
