package cgroup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
)

// group makes a group of plain files.
func group(t *testing.T, files map[string]string) Cgroup {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return Cgroup{dir}
}

func TestStats(t *testing.T) {
	c := group(t, map[string]string{
		"cpu.stat":                 "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 7\nnr_throttled 1\nthrottled_usec 9\n",
		"memory.current":           "4096\n",
		"memory.peak":              "8192\n",
		"memory.max":               "52428800\n",
		"memory.stat":              "anon 1\nfile 2\nkernel 3\n",
		"memory.swap.current":      "0\n",
		"memory.swap.max":          "max\n",
		"memory.events":            "low 0\nmax 4\noom_kill 0\n",
		"pids.current":             "2\n",
		"pids.max":                 "100\n",
		"io.stat":                  "254:0 rbytes=10 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n254:16 rbytes=20 cost.usage=1\n",
		"hugetlb.2MB.current":      "2097152\n",
		"hugetlb.2MB.events":       "max 1\n",
		"hugetlb.2MB.rsvd.current": "0\n",
	})
	stats, err := c.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if u := stats.GetCpuStats().GetCpuUsage(); u.GetTotalUsage() != 5000 || u.GetUsageInUsermode() != 3000 || u.GetUsageInKernelmode() != 2000 {
		t.Errorf("cpu is %v, want nanoseconds", u)
	}
	if th := stats.GetCpuStats().GetThrottlingData(); th.GetPeriods() != 7 || th.GetThrottledPeriods() != 1 || th.GetThrottledTime() != 9000 {
		t.Errorf("throttling is %v", th)
	}
	m := stats.GetMemoryStats()
	if m.GetUsage().GetUsage() != 4096 || m.GetUsage().GetLimit() != 52428800 || m.GetUsage().GetFailcnt() != 4 || m.GetCache() != 2 || m.GetStats()["anon"] != 1 || m.GetSwapUsage().GetLimit() != 0 {
		t.Errorf("memory is %v", m)
	}
	if p := stats.GetPidsStats(); p.GetCurrent() != 2 || p.GetLimit() != 100 {
		t.Errorf("pids are %v", p)
	}
	if io := stats.GetBlkioStats().GetIoServiceBytesRecursive(); len(io) != 7 || io[0].GetOp() != "read" || io[0].GetValue() != 10 || io[6].GetMinor() != 16 {
		t.Errorf("io is %s", protojson.Format(stats.GetBlkioStats()))
	}
	if h := stats.GetHugetlbStats(); len(h) != 1 || h["2MB"].GetUsage() != 2097152 || h["2MB"].GetFailcnt() != 1 {
		t.Errorf("huge pages are %v", h)
	}
}

func TestGroupWithoutControllers(t *testing.T) {
	stats, err := group(t, map[string]string{"cgroup.procs": ""}).Stats()
	if err != nil || stats.GetMemoryStats().GetUsage().GetUsage() != 0 {
		t.Errorf("stats are %v, %v", stats, err)
	}
}

func TestPidsOfAWholeTree(t *testing.T) {
	c := group(t, map[string]string{"cgroup.procs": "10\n11\n0\n", "child/cgroup.procs": "12\n"})
	pids, err := c.Pids()
	if err != nil || len(pids) != 3 {
		t.Errorf("pids are %v, %v", pids, err)
	}
	gone := Cgroup{filepath.Join(c.dir, "gone")}
	if pids, err := gone.Pids(); err != nil || len(pids) != 0 {
		t.Errorf("a group that is gone has %v, %v", pids, err)
	}
	if err := gone.Kill(); err != nil {
		t.Errorf("killing a group that is gone: %v", err)
	}
}

func TestOOMIsToldOnce(t *testing.T) {
	c := group(t, map[string]string{"memory.events": "oom_kill 0\n"})
	killed := make(chan struct{}, 2)
	ended := make(chan error, 1)
	go func() { ended <- c.WatchOOM(t.Context(), func() { killed <- struct{}{} }) }()
	// The kernel changes the file in place. Written until seen: the watch may not stand yet.
	for {
		f, err := os.OpenFile(filepath.Join(c.dir, "memory.events"), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString("oom_kill 1\n"); err != nil {
			t.Fatal(err)
		}
		f.Close()
		select {
		case err := <-ended:
			if err != nil || len(killed) != 1 {
				t.Errorf("told %d times, %v", len(killed), err)
			}
			return
		default:
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("254:0 rbytes=10 wbytes=0\nanon 5\n")
	f.Fuzz(func(t *testing.T, data string) {
		for key := range ParseTable(data) {
			if key == "" || strings.ContainsAny(key, " \n") {
				t.Errorf("%q has the key %q", data, key)
			}
		}
		for _, e := range ParseIO(data) {
			if e.GetOp() == "" {
				t.Errorf("%q has %v", data, e)
			}
		}
	})
}
