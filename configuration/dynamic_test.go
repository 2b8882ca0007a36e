package configuration

import (
	"math"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

const dynamic = "\n[runtime]\nstatic_sandbox_resource_mgmt = false\n"

func growth(t *testing.T, keys string) (*Growth, error) {
	t.Helper()
	c, err := loadText(t, keys+dynamic)
	if err != nil {
		t.Fatal(err)
	}
	c.hostCPUs, c.hostMemoryMiB = 4, 16000
	return c.Growth()
}

func TestSizeFollowsContainers(t *testing.T) {
	for name, c := range map[string]struct {
		keys    string
		running []Workload
		want    Size
	}{
		"nothing runs":             {"default_memory = 512", nil, Size{1, 512}},
		"no limits":                {"default_memory = 512", []Workload{{}, {}}, Size{1, 512}},
		"a limit":                  {"default_memory = 512", []Workload{{CPUs: 0.5, MemoryMiB: 1}}, Size{2, 640}},
		"two share a block":        {"default_memory = 512", []Workload{{MemoryMiB: 64}, {MemoryMiB: 64}}, Size{1, 640}},
		"an odd default":           {"default_memory = 500", []Workload{{MemoryMiB: 129}}, Size{1, 756}},
		"fractions add up":         {"default_vcpus = 0.7", []Workload{{CPUs: 0.1}, {CPUs: 0.2}}, Size{1, 2048}},
		"no processors of its own": {"default_vcpus = 0", []Workload{{CPUs: 2}}, Size{2, 2048}},
		"no memory of its own":     {"default_memory = 0", []Workload{{MemoryMiB: 128}}, Size{1, 2176}},
		"all of the host's":        {"default_vcpus = 1", []Workload{{CPUs: 3}}, Size{4, 2048}},
		"more than the host's":     {"default_maxvcpus = 9", []Workload{{CPUs: 8}}, Size{9, 2048}},
		"all that it may have":     {"default_memory = 512\ndefault_maxmemory = 1100", []Workload{{MemoryMiB: 512}}, Size{1, 1024}},
		"few for the start":        {"default_vcpus = 2\ndefault_maxvcpus = 2", nil, Size{2, 2048}},
	} {
		g, err := growth(t, c.keys)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, err := g.Size(c.running); err != nil || got != c.want {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, c.want)
		}
	}
}

func TestMachinesDoNotOutgrowTheirLimits(t *testing.T) {
	for name, c := range map[string]struct {
		keys    string
		running []Workload
		want    []string
	}{
		"processors":     {"default_maxvcpus = 2", []Workload{{CPUs: 1}, {CPUs: 0.5}}, []string{"resources.limits.cpu", "1.5", "of 3 processors", "default_maxvcpus is 2"}},
		"memory":         {"default_memory = 512\ndefault_maxmemory = 1024", []Workload{{MemoryMiB: 513}}, []string{"resources.limits.memory", "513 MiB", "of 1152 MiB", "default_maxmemory allows 1024"}},
		"beyond numbers": {"", []Workload{{MemoryMiB: math.MaxUint64}, {MemoryMiB: math.MaxUint64}}, []string{"resources.limits.memory"}},
		"host's memory":  {"default_memory = 512", []Workload{{MemoryMiB: 16000}}, []string{"default_maxmemory allows 16000 MiB"}},
	} {
		g, err := growth(t, c.keys)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		_, err = g.Size(c.running)
		if !errdefs.IsResourceExhausted(err) {
			t.Errorf("%s: %v, want resource exhausted", name, err)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v does not say %q", name, err, want)
			}
		}
	}
}

func TestGrowthThatCannotBe(t *testing.T) {
	for keys, want := range map[string]string{
		"default_memory = 2":                                  "does not boot",
		"default_memory = 1024\ndefault_maxmemory = 512":      "default_maxmemory is 512 MiB",
		"default_memory = 1024\ndefault_maxmemory = 99999999": "default_maxmemory is 99999999 MiB",
	} {
		if _, err := growth(t, keys); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want an invalid argument that says %q", keys, err, want)
		}
	}
	c, err := loadText(t, "")
	if err != nil {
		t.Fatal(err)
	}
	if g, err := c.Growth(); g != nil || err != nil {
		t.Errorf("by default a machine grows: %+v, %v", g, err)
	}
}

func TestMemoryToGrowToIsForMachinesThatGrow(t *testing.T) {
	for more, want := range map[string]bool{"": true, dynamic: false} {
		c, err := loadText(t, "default_maxmemory = 4096"+more)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(strings.Join(c.Warnings, "\n"), "default_maxmemory has no effect"); got != want {
			t.Errorf("warned: %t, want %t (%q)", got, want, more)
		}
	}
}

func TestLimitsAreUpdated(t *testing.T) {
	number := func(n int64) *int64 { return &n }
	period := uint64(50000)
	l := Limits{}.Updated(&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: number(150000)}})
	if got := l.Workload(); got.CPUs != 1.5 {
		t.Errorf("a quota without a period: %+v", got)
	}
	l = l.Updated(&specs.LinuxResources{CPU: &specs.LinuxCPU{Period: &period}, Memory: &specs.LinuxMemory{Limit: number(64 << 20)}})
	if got := l.Workload(); got.CPUs != 3 || got.MemoryMiB != 64 {
		t.Errorf("the period and memory beside it: %+v", got)
	}
	l = l.Updated(nil).Updated(&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: number(-1)}, Memory: &specs.LinuxMemory{Limit: number(-1)}})
	if got := l.Workload(); got.CPUs != 0 || got.MemoryMiB != 0 {
		t.Errorf("limits that were lifted: %+v", got)
	}
}
