package sandbox

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/network"
)

// ReapVM ends the machine of a sandbox and removes its directory, from what is
// on disk: p is the VMM if it still is that process. It does not dial.
type ReapVM func(ctx context.Context, id string, p hypervisor.Process) error

// Reap takes back what a sandbox whose shim is gone left on the host, from its
// record alone. It ends within 3 s, may be repeated, and reports whether there
// was anything. A sandbox without a record has left nothing, unless its shim died
// in the very moment of writing it: the machine's directory is looked after anyway.
func Reap(ctx context.Context, stateDir, id string, reapVM ReapVM) (found bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, reapTimeout)
	defer cancel()
	if stateDir == "" {
		stateDir = DefaultStateDir
	}
	r, err := ReadRecord(stateDir, id)
	switch {
	case errors.Is(err, errdefs.ErrNotFound):
		r = &Record{ID: id}
	case err != nil:
		// A record that cannot be read must not keep the rest from going.
		r = &Record{ID: id}
		found = true
	default:
		found = true
	}

	errs := []error{err}
	if !found {
		errs = nil
	}
	if err := reapVM(ctx, id, r.VMM); err != nil {
		errs = append(errs, err)
	}
	if r.NetNS != "" {
		errs = append(errs, network.Detach(ctx, r.NetNS))
	}
	if r.OwnNetNS {
		errs = append(errs, network.Delete(r.NetNS))
	}
	if r.Cgroup != "" {
		errs = append(errs, removeCgroup(ctx, r.Cgroup, r.MadeTop))
	}
	if err := errors.Join(errs...); err != nil {
		return found, fmt.Errorf("reap sandbox %s: %w", id, err)
	}
	return found, removeRecord(stateDir, id)
}
