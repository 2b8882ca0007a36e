package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
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

// announce tells the drivers of direct-assigned volumes which sandbox has them
// and where: by a file of its id beside the volume's description.
func (s *Sandbox) announce(plan *mounts.Plan, sources map[string]string, back *undo.Stack) error {
	for _, d := range plan.DirectVolumes {
		s.mu.Lock()
		s.directs[d.Source] = direct{disk: d.DiskID(), guestPath: d.GuestPath(sources)}
		s.mu.Unlock()
		file := filepath.Join(mounts.DirectVolumeDir(d.Source), s.o.ID)
		f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			continue // another container of the pod has it too
		}
		if err != nil {
			return fmt.Errorf("announce the direct-assigned volume %s: %w", d.Source, err)
		}
		withdraw := func(context.Context) error {
			if gone := os.Remove(file); !errors.Is(gone, fs.ErrNotExist) {
				return gone
			}
			return nil
		}
		back.Add(withdraw)
		s.undo.Add(withdraw)
		_, err = f.WriteString(d.GuestPath(sources))
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("announce the direct-assigned volume %s: %w", d.Source, err)
		}
	}
	return nil
}

// maxLastWords is how much of a termination log the kubelet reads, in bytes.
const maxLastWords = 4096

// keepLastWords writes what a container left in its termination log to the
// host's, for the kubelet to read when it hears of the exit. Agents before 4.1
// cannot tell.
func (c *Container) keepLastWords(ctx context.Context) {
	if c.lastWords == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lastWordsTimeout)
	defer cancel()
	r, err := c.sandbox.agent.GetDiagnosticData(ctx, &agentpb.GetDiagnosticDataRequest{LogType: "termination_log", ContainerId: c.id})
	if err == nil {
		err = overwrite(c.lastWords, r.GetData())
	}
	switch {
	case err == nil || ctx.Err() != nil && c.sandbox.life.Err() != nil:
	case errdefs.IsNotImplemented(err) || errdefs.IsNotFound(err):
		log.G(ctx).WithError(err).Debug("the agent cannot tell the termination message")
	default:
		log.G(ctx).WithError(err).WithField("path", c.lastWords).Warn("termination message does not reach the host")
	}
}

// overwrite replaces the content of a file that is there. It follows no link: the
// text is the guest's.
func overwrite(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text[:min(len(text), maxLastWords)])
	return errors.Join(err, f.Close())
}
