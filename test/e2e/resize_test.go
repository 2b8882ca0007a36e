package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/kata-cc/kata-cc/test/cluster"
)

// machine is what a guest has in use: processors and MiB of memory.
func (p *pod) machine(id string) (cpus, mib int) {
	p.t.Helper()
	for line := range strings.Lines(p.exec(id, "cat", "/proc/cpuinfo", "/proc/meminfo")) {
		key, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(key) {
		case "processor":
			cpus++
		case "MemTotal":
			kib, err := strconv.Atoi(strings.Fields(value)[0])
			check(p.t, err)
			mib = kib >> 10
		}
	}
	return cpus, mib
}

// A machine that follows its containers grows when one with limits comes, and when
// one gets more; the guest has all of it in use. What cannot be had is refused,
// and changes nothing.
func TestMachineGrows(t *testing.T) {
	c := start(t)
	p := startPod(t, c, cluster.Pod{Name: "growing", Handler: growing})
	plain := p.run(cluster.Container{Name: "plain"})
	cpus, mib := p.machine(plain)
	if cpus != 1 || mib > 512 {
		t.Errorf("the machine starts with %d processors and %d MiB", cpus, mib)
	}
	wantMore := func(what string, moreCPUs, moreMiB int) {
		t.Helper()
		if nowCPUs, now := p.machine(plain); nowCPUs != cpus+moreCPUs || now != mib+moreMiB {
			t.Errorf("%s: the guest has %d processors and %d MiB, and began with %d and %d; want %d and %d more",
				what, nowCPUs, now, cpus, mib, moreCPUs, moreMiB)
		}
	}
	limited := p.run(cluster.Container{Name: "limited", CPUs: 1, MemoryMiB: 200})
	wantMore("a container of 1 CPU and 200 MiB", 1, 256)
	_, err := c.Run(t.Context(), "crictl", "update", "--cpu-period", "100000", "--cpu-quota", "150000", "--memory", fmt.Sprint(300<<20), limited)
	check(t, err)
	wantMore("1.5 CPUs and 300 MiB for it", 2, 384)
	if _, err := c.RunContainer(t.Context(), p.sandbox, p.spec, cluster.Container{Name: "much", CPUs: 8}); err == nil || !strings.Contains(err.Error(), "default_maxvcpus is 4") {
		t.Errorf("a container of 8 CPUs: %v", err)
	}
	wantMore("a container that is refused", 2, 384)
}
