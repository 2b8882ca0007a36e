package sandbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/guest/container"
	"github.com/kata-cc/kata-cc/guest/mount"
	"github.com/kata-cc/kata-cc/guest/ocispec"
	"github.com/kata-cc/kata-cc/guest/storage"
	"github.com/kata-cc/kata-cc/internal/undo"
)

// CreateContainer mounts the storages of a container in their order and makes
// it, up to the point where its init waits for the start. On error nothing
// stays, device-mapper devices included.
func (s *Sandbox) CreateContainer(ctx context.Context, r *agentpb.CreateContainerRequest) (err error) {
	id := r.GetContainerId()
	if err = CheckID(id); err != nil {
		return err
	}
	if r.GetOCI() == nil {
		return fmt.Errorf("create container %s: the request has no specification: %w", id, errdefs.ErrInvalidArgument)
	}
	e, err := s.reserve(id)
	if err != nil {
		return err
	}
	defer close(e.settled)
	var back undo.Stack
	defer back.OnError(ctx, &err)
	back.Add(func(context.Context) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.containers, id)
		return nil
	})
	bundle := filepath.Join(storage.Root, id)
	back.Add(func(context.Context) error { return os.RemoveAll(bundle) })
	if err = os.MkdirAll(bundle, 0o755); err != nil {
		return err
	}
	for _, st := range r.GetStorages() {
		if err = s.Storages.Acquire(ctx, st, id); err != nil {
			return fmt.Errorf("create container %s: %w", id, err)
		}
		e.storages = append(e.storages, st.GetMountPoint())
		back.Add(func(ctx context.Context) error { return s.Storages.Release(ctx, st.GetMountPoint()) })
	}
	c, err := s.build(ctx, r, bundle, &back)
	if err != nil {
		return fmt.Errorf("create container %s: %w", id, err)
	}
	back.Add(c.Remove)
	if err = s.enter(e, c); err != nil {
		return err
	}
	s.Storages.Keep(e.storages)
	return nil
}

// reserve takes a container's id before the container exists.
func (s *Sandbox) reserve(id string) (*entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != stateRunning {
		return nil, fmt.Errorf("create container %s: the sandbox is %s, not %s: %w", id, s.state, stateRunning, errdefs.ErrFailedPrecondition)
	}
	if s.containers[id] != nil {
		return nil, fmt.Errorf("create container %s: there is one already: %w", id, errdefs.ErrAlreadyExists)
	}
	if len(s.containers) >= maxContainers {
		return nil, fmt.Errorf("create container %s: there are %d already: %w", id, maxContainers, errdefs.ErrResourceExhausted)
	}
	e := &entry{settled: make(chan struct{})}
	s.containers[id] = e
	return e, nil
}

// enter makes a created container known.
func (s *Sandbox) enter(e *entry, c *container.Container) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != stateRunning {
		return fmt.Errorf("create container %s: %w", c.ID, ErrDestroyed)
	}
	if s.pids.file == nil { // the first container's is the one to share
		pids, err := pidsOf(c)
		if err != nil {
			return err
		}
		s.pids = pids
	}
	e.c = c
	return nil
}

// build fits the specification into the guest and hands it to the OCI runtime.
func (s *Sandbox) build(ctx context.Context, r *agentpb.CreateContainerRequest, bundle string, back *undo.Stack) (*container.Container, error) {
	spec := ocispec.New(r.GetOCI())
	if err := s.applyDevices(ctx, spec, r.GetDevices()); err != nil {
		return nil, err
	}
	if err := allowBound(spec, r.GetStorages()); err != nil {
		return nil, err
	}
	guest := ocispec.Guest{Rootfs: filepath.Join(bundle, "rootfs"), ContainerID: r.GetContainerId()}
	s.mu.Lock()
	guest.IPC, guest.UTS = s.namespaces.ipc, s.namespaces.uts
	s.mu.Unlock()
	if r.GetSandboxPidns() {
		path, err := s.sharePIDs(ctx, ocispec.CgroupPath(r.GetOCI().GetLinux().GetCgroupsPath(), r.GetContainerId())+holderID)
		if err != nil {
			return nil, err
		}
		guest.PID = path
	}
	rootfs := ""
	if spec.Root != nil {
		rootfs = spec.Root.Path
	}
	sysctl, err := ocispec.Fit(spec, guest)
	if err != nil {
		return nil, err
	}
	if err := setSysctls(sysctl); err != nil {
		return nil, err
	}
	if filepath.Clean(rootfs) != guest.Rootfs { // else a storage is mounted there
		back.Add(func(context.Context) error { return mount.Unmount(guest.Rootfs) })
		if err := mount.Bind(rootfs, guest.Rootfs); err != nil {
			return nil, err
		}
	}
	return s.Runtime.Create(ctx, r.GetContainerId(), bundle, spec)
}

// setSysctls sets the network's kernel parameters of the guest, which are the pod's.
func setSysctls(sysctl map[string]string) error {
	for name, value := range sysctl {
		path, err := ocispec.SysctlPath(name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(value), 0); err != nil {
			return fmt.Errorf("set kernel parameter %s to %q: %w", name, value, err)
		}
	}
	return nil
}

// StartContainer starts a created container. Its out-of-memory kills are watched.
func (s *Sandbox) StartContainer(ctx context.Context, id string) error {
	c, err := s.Container(id)
	if err != nil {
		return err
	}
	if err := c.Start(ctx); err != nil {
		return err
	}
	go func() {
		killed := func() {
			select {
			case s.ooms <- id:
			case <-s.ctx.Done():
			}
		}
		if err := c.WatchOOM(s.ctx, killed); err != nil {
			slog.Error("watch memory", "container", id, "error", err)
		}
	}()
	return nil
}

// awaitMade waits until a container is not being created any more: who has lost
// patience with its creation removes it.
func (s *Sandbox) awaitMade(ctx context.Context, id string) error {
	s.mu.Lock()
	e := s.containers[id]
	s.mu.Unlock()
	if e == nil {
		return nil
	}
	select {
	case <-e.settled:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("container %s is still being created: %w", id, context.Cause(ctx))
	}
}

// RemoveContainer kills what runs in a container and gives back all it used. It
// may be called again when it has failed.
func (s *Sandbox) RemoveContainer(ctx context.Context, id string) error {
	if err := s.awaitMade(ctx, id); err != nil {
		return err
	}
	c, err := s.Container(id)
	if err != nil {
		return err
	}
	if err := c.Remove(ctx); err != nil {
		return err
	}
	bundle := filepath.Join(storage.Root, id)
	errs := []error{unbindRootfs(bundle)}
	s.mu.Lock()
	var used []string
	if e := s.containers[id]; e != nil && e.c == c {
		used, e.storages = e.storages, nil // taken by one caller only
		delete(s.containers, id)
	}
	s.mu.Unlock()
	for _, at := range slices.Backward(used) {
		errs = append(errs, s.Storages.Release(ctx, at))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	if err := os.RemoveAll(bundle); err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	return nil
}

// unbindRootfs detaches everything mounted below a bundle but storages, which
// are released by their count.
func unbindRootfs(bundle string) error {
	return mount.Unmount(filepath.Join(bundle, "rootfs"))
}

// applyDevices puts the guest's device numbers into the specification, where the
// host could only name devices by their place.
func (s *Sandbox) applyDevices(ctx context.Context, spec *specs.Spec, devices []*agentpb.Device) error {
	seen := make(map[string]bool)
	for _, d := range devices {
		switch {
		case d.GetType() == "":
			return fmt.Errorf("invalid type for device %s: %w", d.GetContainerPath(), errdefs.ErrInvalidArgument)
		case d.GetId() == "" && d.GetVmPath() == "":
			return fmt.Errorf("invalid ID and VM path for device %s: %w", d.GetContainerPath(), errdefs.ErrInvalidArgument)
		case d.GetContainerPath() == "":
			return fmt.Errorf("invalid container path for device %s: %w", d.GetId(), errdefs.ErrInvalidArgument)
		case d.GetType() != "blk" && d.GetType() != "mmioblk" && d.GetType() != "nvdimm":
			return fmt.Errorf("Unknown device type %s: %w", d.GetType(), errdefs.ErrInvalidArgument)
		case seen[d.GetContainerPath()]:
			return fmt.Errorf("Conflicting device updates for %s: %w", d.GetContainerPath(), errdefs.ErrInvalidArgument)
		}
		seen[d.GetContainerPath()] = true
		source := d.GetVmPath()
		if d.GetType() == "blk" && d.GetId() != "" {
			source = d.GetId()
		}
		path, err := s.Storages.Disks.Find(ctx, source)
		if err != nil {
			return err
		}
		if err := ocispec.SetDevice(spec, d.GetContainerPath(), path); err != nil {
			return err
		}
	}
	return nil
}
