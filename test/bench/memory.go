package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kata-cc/kata-cc/test/cluster"
)

const mebibyte = 1 << 20

// memory is what a pod holds, in MiB.
type memory struct {
	shimOne, shimTen float64 // the shim's, with one container and with ten

	debug, production guestMemory
	processes         []processMemory
}

// processMemory is a process on the host: its share of memory without the
// guest's RAM.
type processMemory struct {
	name string
	pss  float64
}

// measureMemory looks at pods without a container, not even a pause container,
// then at the shim of one with containers.
func measureMemory(ctx context.Context, c *cluster.Cluster) (m memory, err error) {
	if m.debug, err = measureGuests(ctx, c, cluster.SandboxHandler); err != nil {
		return m, err
	}
	if m.production, err = measureGuests(ctx, c, production); err != nil {
		return m, err
	}
	pod := cluster.Pod{Name: "memory", Handler: cluster.SandboxHandler}
	sandbox, err := c.RunPod(ctx, pod)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, c.RemovePod(ctx, sandbox)) }()
	time.Sleep(settleTime)
	if m.processes, err = processesOf(sandbox, m.debug.ram); err != nil {
		return m, err
	}
	for i := range 10 {
		if _, err = c.RunContainer(ctx, sandbox, pod, cluster.Container{Name: fmt.Sprint("c", i)}); err != nil {
			return m, err
		}
		if i == 0 {
			time.Sleep(settleTime)
			if m.shimOne, err = resident(sandbox); err != nil {
				return m, err
			}
		}
	}
	time.Sleep(settleTime)
	m.shimTen, err = resident(sandbox)
	return m, err
}

// settleTime is more than a shim takes after a start to give memory back.
const settleTime = 3 * time.Second

// kilobytes reads a line "key  123 kB" and gives it in MiB.
func kilobytes(text, key string) (float64, error) {
	for line := range strings.Lines(text) {
		rest, found := strings.CutPrefix(line, key)
		if f := strings.Fields(rest); found && len(f) > 0 {
			n, err := strconv.ParseFloat(f[0], 64)
			return n / 1024, err
		}
	}
	return 0, fmt.Errorf("no line %s in %q", key, text)
}

// processesOf finds the processes that name a sandbox on their command lines,
// and their descendants.
func processesOf(sandbox string, ram float64) ([]processMemory, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	parents, pids := map[string]string{}, []string{}
	for _, dir := range dirs {
		pid := filepath.Base(dir)
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		if strings.Contains(string(cmdline), sandbox) {
			pids = append(pids, pid)
		}
		stat, _ := os.ReadFile(filepath.Join(dir, "stat"))
		if f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:])); len(f) > 1 {
			parents[pid] = f[1]
		}
	}
	for i := 0; i < len(pids); i++ {
		for child, parent := range parents {
			if parent == pids[i] && !slices.Contains(pids, child) {
				pids = append(pids, child)
			}
		}
	}
	var all []processMemory
	for _, pid := range pids {
		name, err1 := os.ReadFile(filepath.Join("/proc", pid, "comm"))
		maps, err2 := os.ReadFile(filepath.Join("/proc", pid, "smaps"))
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		all = append(all, processMemory{strings.TrimSpace(string(name)), pssWithout(string(maps), ram)})
	}
	slices.SortFunc(all, func(a, b processMemory) int { return strings.Compare(a.name, b.name) })
	return all, nil
}

var mapping = regexp.MustCompile(`^([0-9a-f]+)-([0-9a-f]+) `)

// pssWithout adds up the Pss of the mappings in smaps, in MiB, but for the
// guest's RAM: a memfd, or a mapping of its size.
func pssWithout(smaps string, ram float64) (sum float64) {
	guest := false
	for line := range strings.Lines(smaps) {
		if m := mapping.FindStringSubmatch(line); m != nil {
			from, _ := strconv.ParseUint(m[1], 16, 64)
			to, _ := strconv.ParseUint(m[2], 16, 64)
			guest = strings.Contains(line, "/memfd:") || float64(to-from) == ram*mebibyte
			continue
		}
		if kb, found := strings.CutPrefix(line, "Pss:"); found && !guest {
			n, _ := strconv.ParseFloat(strings.Fields(kb)[0], 64)
			sum += n / 1024
		}
	}
	return sum
}

// resident finds the shim of a sandbox by its command line.
func resident(sandbox string) (float64, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		cmdline, _ := os.ReadFile(file)
		if !strings.Contains(string(cmdline), "containerd-shim-kata-cc-v2\x00") || !strings.Contains(string(cmdline), sandbox) {
			continue
		}
		status, err := os.ReadFile(filepath.Join(filepath.Dir(file), "status"))
		if err != nil {
			return 0, err
		}
		return kilobytes(string(status), "VmRSS:")
	}
	return 0, fmt.Errorf("no shim of sandbox %s", sandbox)
}

// tables writes what was measured.
func (m memory) tables(images []imageSize) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n## The shim's memory\n\nThree seconds after the last start.\n\n| state | resident |\n|---|---:|\n| one container | %.1f MiB |\n| ten containers | %.1f MiB |\n\n", m.shimOne, m.shimTen)
	fmt.Fprintf(&b, "## An idle pod's memory\n\nNo container runs, not even a pause container, and no shell; the guest has %.0f MiB. What the guest's agent tells, medians of %d boots of the debug image and of the production image.\n\n| whose | MiB |\n|---|---:|\n", m.debug.ram, guestBoots)
	for _, image := range []struct {
		name string
		guestMemory
	}{{"debug", m.debug}, {"production", m.production}} {
		fmt.Fprintf(&b, "| in the guest, %s: used by kernel and agent, without caches | %.1f |\n| the same with what the kernel keeps free: containers cannot have it | %.1f |\n| the agent's resident memory | %.1f |\n", image.name, image.used, image.reserved, image.agent)
	}
	sum := 0.0
	for _, p := range m.processes {
		fmt.Fprintf(&b, "| on the host, beside the guest's RAM: `%s` | %.1f |\n", p.name, p.pss)
		sum += p.pss
	}
	fmt.Fprintf(&b, "| on the host, together | %.1f |\n\n## The guest's size\n\n| file | MiB |\n|---|---:|\n", sum)
	for _, i := range images {
		fmt.Fprintf(&b, "| %s | %.1f |\n", i.name, i.size)
	}
	b.WriteByte('\n')
	return b.String()
}

// imageSize is a file of a guest image, in MiB.
type imageSize struct {
	name string
	size float64
}

func imageSizes(p cluster.Paths) ([]imageSize, error) {
	var all []imageSize
	for _, i := range []struct{ what, file string }{
		{"root disk, production", p.Production().RootDisk()}, {"root disk, debug", p.Debug().RootDisk()},
		{"ramdisk that opens it", filepath.Join(p.Guest, "root-initrd.img")}, {"kernel", filepath.Join(p.Guest, "vmlinux")},
	} {
		info, err := os.Stat(i.file)
		if err != nil {
			return nil, err
		}
		all = append(all, imageSize{i.what, float64(info.Size()) / mebibyte})
	}
	return all, nil
}
