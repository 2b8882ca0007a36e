package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/kata-cc/kata-cc/agentclient"
	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/internal/vsock"
	"github.com/kata-cc/kata-cc/test/cluster"
)

const (
	agentPort  = 1024
	guestBoots = 5 // of each image; the tables have the medians

	// production is the handler of pods without a pause container on the image
	// without a shell.
	production = cluster.SandboxHandler + "-production"
)

// guestMemory is what is held in a guest, in MiB.
type guestMemory struct {
	ram      float64 // of the guest
	used     float64 // of ram, by kernel and agent: neither free nor cache
	reserved float64 // of ram, what containers cannot have: used, and what the kernel keeps free
	agent    float64 // the agent's resident memory
}

// measureGuests boots pods without a container, and takes medians.
func measureGuests(ctx context.Context, c *cluster.Cluster, handler string) (guestMemory, error) {
	var all []guestMemory
	for i := range guestBoots {
		sandbox, err := c.RunPod(ctx, cluster.Pod{Name: fmt.Sprint("guest-", i), Handler: handler})
		if err != nil {
			return guestMemory{}, err
		}
		m, err := measureGuest(ctx, c, sandbox)
		if err = errors.Join(err, c.RemovePod(ctx, sandbox)); err != nil {
			return guestMemory{}, err
		}
		all = append(all, m)
	}
	middle := func(of func(guestMemory) float64) float64 {
		var values []float64
		for _, m := range all {
			values = append(values, of(m))
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	return guestMemory{
		ram: all[0].ram, used: middle(func(m guestMemory) float64 { return m.used }),
		reserved: middle(func(m guestMemory) float64 { return m.reserved }), agent: middle(func(m guestMemory) float64 { return m.agent }),
	}, nil
}

// measureGuest asks the agent, so that no shell runs, and the production image
// can be asked too.
func measureGuest(ctx context.Context, c *cluster.Cluster, sandbox string) (m guestMemory, err error) {
	size, err := c.VMInfo(ctx, sandbox, ".config.memory.size")
	if err != nil {
		return m, err
	}
	bytes, err := strconv.ParseFloat(strings.TrimSpace(size), 64)
	if err != nil {
		return m, err
	}
	conn, err := vsock.Dial(ctx, filepath.Join(cluster.VMDir(sandbox), "clh.sock"), agentPort)
	if err != nil {
		return m, err
	}
	agent := agentclient.New(conn)
	defer func() { err = errors.Join(err, agent.Close()) }()
	metrics, err := agent.GetMetrics(ctx, &agentpb.GetMetricsRequest{})
	if err != nil {
		return m, err
	}
	values := gauges(metrics.GetMetrics())
	item := func(name string) float64 { return values[fmt.Sprintf("kata_guest_meminfo{item=%q}", name)] / mebibyte }
	if item("memfree") == 0 {
		return m, fmt.Errorf("the agent of %s tells nothing of the guest's memory: %q", sandbox, metrics.GetMetrics())
	}
	m.ram = bytes / mebibyte
	// Shared memory is among the caches, and nobody can drop it.
	m.used = m.ram - item("memfree") - item("cached") - item("sreclaimable") + item("shmem")
	m.reserved = m.ram - item("memavailable")
	m.agent = values["kata_agent_process_resident_memory_bytes"] / mebibyte
	return m, nil
}

// gauges reads Prometheus's text form, by name with labels.
func gauges(text string) map[string]float64 {
	values := map[string]float64{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name != "#" {
			if n, err := strconv.ParseFloat(value, 64); err == nil {
				values[name] = n
			}
		}
	}
	return values
}
