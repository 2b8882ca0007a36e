package sandbox

import (
	"context"

	"github.com/kata-cc/kata-cc/internal/undo"
	"github.com/kata-cc/kata-cc/mounts"
	"github.com/kata-cc/kata-cc/volumes"
)

// copyFiles gives the guest the files of a container's plan and says how much
// that was. Those that the kubelet updates are kept up to date from then on.
func (s *Sandbox) copyFiles(ctx context.Context, c *Container, plan *mounts.Plan, back *undo.Stack) (volumes.Usage, error) {
	back.Add(func(context.Context) error { c.dropFiles(); return nil })
	var all volumes.Usage
	for _, f := range plan.Files {
		u, err := s.volumes.Add(ctx, f.HostPath, f.GuestPath)
		if err != nil {
			return volumes.Usage{}, err
		}
		all = all.Plus(u)
		s.mu.Lock()
		c.copies = append(c.copies, f.GuestPath)
		s.mu.Unlock()
	}
	return all, nil
}

// dropFiles ends the updates of a container's files.
func (c *Container) dropFiles() {
	s := c.sandbox
	s.mu.Lock()
	copies := c.copies
	c.copies = nil
	s.mu.Unlock()
	for _, path := range copies {
		s.volumes.Remove(path)
	}
}
