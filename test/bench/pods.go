package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/kata-cc/kata-cc/test/cluster"
)

// samples are what was measured, by name.
type samples map[string][]time.Duration

func (s samples) add(name string, d time.Duration) { s[name] = append(s[name], d) }

// phases are the shim's own words for the parts of a start, in their order,
// and what happens in each.
var phases = []struct{ name, what string }{
	{"network", "taps and filters in the pod's network namespace"},
	{"vmm", "start the VMM and describe the machine to it"},
	{"boot", "the VMM boots the machine"},
	{"agent", "the guest's kernel boots, until the agent answers"},
	{"guest", "interfaces, routes and sandbox in the guest"},
	{"layers", "plug a container's layers"},
	{"files", "copy a container's files"},
	{"agent_create", "the agent opens, mounts and creates"},
}

// commands are what crictl's user waits for.
var commands = []struct{ name, what string }{
	{"runp", "`crictl runp`: from nothing to a sandbox"},
	{"create", "`crictl create`"},
	{"start", "`crictl start`"},
	{"exec", "`crictl exec` of `true`"},
	{"remove", "`crictl stopp` and `rmp`"},
}

func measurePods(ctx context.Context, vmm cluster.VMM, runs int) (text string, err error) {
	paths, err := cluster.FindPaths()
	if err != nil {
		return "", err
	}
	c, err := cluster.Start(ctx, cluster.Options{VMM: vmm, Handlers: map[string]cluster.Kata{production: {"hypervisor.clh": paths.Production().OnDisk()}}})
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, c.Close(ctx)) }()
	for _, image := range []string{cluster.ExampleImage, cluster.PauseImage} {
		if err = c.Pull(ctx, image); err != nil {
			return "", err
		}
	}
	took := samples{}
	for i := range runs {
		fmt.Fprintf(os.Stderr, "pod %d of %d\n", i+1, runs)
		if err = measurePod(ctx, c, took, fmt.Sprint("bench-", i)); err != nil {
			return "", err
		}
	}
	log, err := os.ReadFile(filepath.Join(c.Dir, "log", "containerd.log"))
	if err != nil {
		return "", err
	}
	readPhases(string(log), took)
	held, err := measureMemory(ctx, c)
	if err != nil {
		return "", err
	}
	images, err := imageSizes(c.Paths)
	if err != nil {
		return "", err
	}

	var b strings.Builder
	fmt.Fprintf(&b, "## A pod's start\n\nMedian and slowest of %d.\n\n| phase | median | slowest | what happens |\n|---|---:|---:|---|\n", runs)
	for _, list := range [][]struct{ name, what string }{commands, phases} {
		for _, p := range list {
			if d := took[p.name]; len(d) > 0 {
				fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", p.name, show(median(d)), show(slices.Max(d)), p.what)
			}
		}
	}
	b.WriteString(plot(took))
	b.WriteString(held.tables(images))
	return b.String(), nil
}

// plot draws the phases beside each other.
func plot(took samples) string {
	var names, values []string
	for _, p := range phases {
		if d := took[p.name]; len(d) > 0 {
			names = append(names, p.name)
			values = append(values, fmt.Sprint(median(d).Milliseconds()))
		}
	}
	return fmt.Sprintf("\n```mermaid\nxychart-beta\n  title \"Phases of a pod's start, median\"\n  x-axis [%s]\n  y-axis \"milliseconds\"\n  bar [%s]\n```\n",
		strings.Join(names, ", "), strings.Join(values, ", "))
}

func measurePod(ctx context.Context, c *cluster.Cluster, took samples, name string) error {
	pod, container := cluster.Pod{Name: name}, cluster.Container{Name: "main"}
	var sandbox, id string
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"runp", func() (err error) { sandbox, err = c.RunPod(ctx, pod); return err }},
		{"create", func() (err error) { id, err = c.CreateContainer(ctx, sandbox, pod, container); return err }},
		{"start", func() error { return c.StartContainer(ctx, id) }},
		{"exec", func() error { _, err := c.Exec(ctx, id, "/bin/busybox", "true"); return err }},
		{"remove", func() error { return c.RemovePod(ctx, sandbox) }},
	} {
		began := time.Now()
		if err := step.do(); err != nil {
			return err
		}
		took.add(step.name, time.Since(began))
	}
	return nil
}

var field = regexp.MustCompile(`(\w+)=([0-9.]+(?:ns|µs|ms|s))\b`)

// readPhases takes the durations from the shim's lines in containerd's log.
func readPhases(log string, took samples) {
	for line := range strings.Lines(log) {
		if !strings.Contains(line, `msg="sandbox started"`) && !strings.Contains(line, `msg="container created"`) {
			continue
		}
		for _, m := range field.FindAllStringSubmatch(line, -1) {
			if d, err := time.ParseDuration(m[2]); err == nil && m[1] != "duration" {
				took.add(m[1], d)
			}
		}
	}
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

// show rounds to three digits or so.
func show(d time.Duration) string {
	for unit := time.Second; unit > time.Nanosecond; unit /= 10 {
		if d >= unit {
			return d.Round(unit / 100).String()
		}
	}
	return d.String()
}
