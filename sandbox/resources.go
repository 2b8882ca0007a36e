package sandbox

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/mounts"
)

// Update changes the container's resources in the guest, and before that the size
// of a machine that follows its containers. If it fails nothing has changed, but
// that the machine keeps memory it was given.
func (c *Container) Update(ctx context.Context, r *specs.LinuxResources) error {
	ctx, cancel := c.sandbox.within(ctx)
	defer cancel()
	undo := c.limit(r)
	err := c.sandbox.fit(ctx)
	if err == nil {
		err = c.updateInGuest(ctx, r)
	}
	if err != nil {
		undo(context.WithoutCancel(ctx))
		return fmt.Errorf("update container %s: %w", c.id, err)
	}
	return nil
}

func (c *Container) updateInGuest(ctx context.Context, r *specs.LinuxResources) error {
	return c.sandbox.agent.UpdateContainer(ctx, &agentpb.UpdateContainerRequest{ContainerId: c.id, Resources: mounts.Resources(r)})
}

// The counters of a container as the guest gives them: times in nanoseconds,
// sizes in bytes, memory.stat by its keys, block devices by major and minor.
type (
	Stats       = agentpb.CgroupStats
	MemoryStats = agentpb.MemoryData
	BlockStats  = agentpb.BlkioStatsEntry
)

// Stats reads the container's counters in the guest.
func (c *Container) Stats(ctx context.Context) (*Stats, error) {
	if c.Init().Status() == StoppedProcess {
		return nil, fmt.Errorf("container %s is stopped: %w", c.id, errdefs.ErrFailedPrecondition)
	}
	ctx, cancel := c.sandbox.within(ctx)
	defer cancel()
	r, err := c.sandbox.agent.StatsContainer(ctx, &agentpb.StatsContainerRequest{ContainerId: c.id})
	if err != nil {
		return nil, err
	}
	if c.sandbox.microseconds {
		toNanoseconds(r.GetCgroupStats())
	}
	return r.GetCgroupStats(), nil
}

// toNanoseconds corrects the times of agents before 4, which pass on the
// microseconds of cgroup version 2. Only that one's memory.stat has "anon".
func toNanoseconds(s *Stats) {
	if _, ok := s.GetMemoryStats().GetStats()["anon"]; !ok {
		return
	}
	if u := s.GetCpuStats().GetCpuUsage(); u != nil {
		u.TotalUsage *= 1000
		u.UsageInKernelmode *= 1000
		u.UsageInUsermode *= 1000
	}
	if t := s.GetCpuStats().GetThrottlingData(); t != nil {
		t.ThrottledTime *= 1000
	}
}
