package sandbox

import (
	"testing"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

func TestOldAgentsCountMicroseconds(t *testing.T) {
	for version, want := range map[string]bool{"3.2.0": true, "3.2.0.azl5": true, "4.1.0": false, "kata-cc-devel": false, "": false} {
		if got := isOld(version); got != want {
			t.Errorf("%q: %t", version, got)
		}
	}
	for key, want := range map[string]uint64{"anon": 5000, "cache": 5} {
		s := &Stats{
			CpuStats: &agentpb.CpuStats{
				CpuUsage:       &agentpb.CpuUsage{TotalUsage: 5, UsageInKernelmode: 5, UsageInUsermode: 5},
				ThrottlingData: &agentpb.ThrottlingData{ThrottledTime: 5},
			},
			MemoryStats: &agentpb.MemoryStats{Stats: map[string]uint64{key: 1}},
		}
		toNanoseconds(s)
		u := s.CpuStats.CpuUsage
		if u.TotalUsage != want || u.UsageInKernelmode != want || u.UsageInUsermode != want || s.CpuStats.ThrottlingData.ThrottledTime != want {
			t.Errorf("%s: %v", key, s.CpuStats)
		}
	}
	toNanoseconds(nil)
}
