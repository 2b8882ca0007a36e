package storage

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/guest/mount"
)

// Resize gives guest memory file systems that are mounted the size in their new
// options.
func (s *Set) Resize(_ context.Context, storages []*agentpb.Storage) error {
	for _, st := range storages {
		if st.GetDriver() != driverEphemeral {
			continue
		}
		if err := checkMountPoint(st.GetMountPoint()); err != nil {
			return err
		}
		if s.Find(st.GetMountPoint()) == nil {
			return fmt.Errorf("resize storage %s: it is not mounted: %w", st.GetMountPoint(), errdefs.ErrNotFound)
		}
		opts, err := mount.ParseOptions(st.GetOptions())
		if err != nil {
			return err
		}
		data := strings.Join(opts.Data, ",")
		if err := unix.Mount("", st.GetMountPoint(), "", opts.Flags|unix.MS_REMOUNT, data); err != nil {
			return fmt.Errorf("resize storage %s: %w", st.GetMountPoint(), err)
		}
	}
	return nil
}
