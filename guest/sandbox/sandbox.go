// Package sandbox is the guest's side of the pod: its namespaces, storages and
// containers.
//
//	New ──Create──▶ Running ──Destroy──▶ Destroyed
//
// There is one sandbox in a guest and it is created once: a second creation
// would take the directories of running containers away.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/guest/container"
	"github.com/kata-cc/kata-cc/guest/mount"
	"github.com/kata-cc/kata-cc/guest/storage"
	"github.com/kata-cc/kata-cc/internal/undo"
)

// Shared is the directory of root file systems and copied files.
const Shared = storage.Root + "/shared/containers"

type state string

const (
	stateNew       state = "new"
	stateCreating  state = "being created"
	stateRunning   state = "running"
	stateDestroyed state = "destroyed"
)

// Sandbox is the pod.
type Sandbox struct {
	Runtime  *container.Runtime
	Storages *storage.Set

	ctx  context.Context // ends with the sandbox; the OOM watches live by it
	end  context.CancelFunc
	ooms chan string

	mu         sync.Mutex
	state      state
	namespaces namespaces
	containers map[string]*entry
	pids       sharedPIDs

	makingPIDs chan struct{} // full while pids is being made
}

// entry is a container, or the place of one being created or removed.
type entry struct {
	c        *container.Container // nil while being created
	settled  chan struct{}        // closed when that has ended
	storages []string             // mount points in use, in the order they were taken
}

// New is the sandbox before its creation.
func New(r *container.Runtime, s *storage.Set) *Sandbox {
	ctx, end := context.WithCancel(context.Background())
	return &Sandbox{
		Runtime: r, Storages: s, ctx: ctx, end: end, state: stateNew,
		containers: make(map[string]*entry), ooms: make(chan string, maxContainers), makingPIDs: make(chan struct{}, 1),
	}
}

// maxContainers bounds what a host can make the guest remember.
const maxContainers = 1024

// Create makes the sandbox. On error it may be tried again.
func (s *Sandbox) Create(ctx context.Context, r *agentpb.CreateSandboxRequest) (err error) {
	if err = s.move(stateCreating, stateNew); err != nil {
		return fmt.Errorf("create sandbox %s: %w", r.GetSandboxId(), err)
	}
	var back undo.Stack
	defer func() {
		back.OnError(ctx, &err)
		if err != nil {
			err = errors.Join(fmt.Errorf("create sandbox %s: %w", r.GetSandboxId(), err), s.move(stateNew, stateCreating))
		}
	}()
	if r.GetGuestHookPath() != "" {
		return fmt.Errorf("guest hooks in %s are not supported: %w", r.GetGuestHookPath(), errdefs.ErrNotImplemented)
	}
	if err = resetDirectories(); err != nil {
		return err
	}
	if err = loadModules(ctx, s.Runtime.Reaper, r.GetKernelModules()); err != nil {
		return err
	}
	ns, err := newNamespaces(r.GetHostname())
	if err != nil {
		return err
	}
	back.Add(func(context.Context) error { return ns.close() })
	for _, st := range r.GetStorages() {
		if err = s.Storages.Acquire(ctx, st, ""); err != nil {
			return err
		}
		back.Add(func(ctx context.Context) error { return s.Storages.Release(ctx, st.GetMountPoint()) })
	}
	if err = setDNS(r.GetDns()); err != nil {
		return err
	}
	if r.GetSandboxPidns() {
		if _, err = s.sharePIDs(ctx, "/"+holderID); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.namespaces = ns
	s.mu.Unlock()
	return s.move(stateRunning, stateCreating)
}

func (s *Sandbox) move(to, from state) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != from {
		return fmt.Errorf("the sandbox is %s, not %s: %w", s.state, from, errdefs.ErrFailedPrecondition)
	}
	s.state = to
	return nil
}

// Running refuses with FailedPrecondition while there is no sandbox.
func (s *Sandbox) Running() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != stateRunning {
		return fmt.Errorf("the sandbox is %s, not %s: %w", s.state, stateRunning, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// resetDirectories makes the sandbox's directory anew. What may be mounted in
// an old one is detached first, so that nothing behind a mount is deleted.
func resetDirectories() error {
	old, err := mount.Below(storage.Root)
	if err != nil {
		return err
	}
	for _, target := range slices.Backward(old) {
		if err := mount.Unmount(target); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(storage.Root); err != nil {
		return err
	}
	for _, dir := range []string{Shared, storage.Layers} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}

const guestResolvConf = "/etc/resolv.conf"

// setDNS gives the guest itself the pod's name servers, as lines of
// resolv.conf. Containers get theirs as files.
func setDNS(lines []string) error {
	if _, err := os.Stat(guestResolvConf); err != nil || len(lines) == 0 {
		return nil
	}
	var text strings.Builder
	for _, l := range lines {
		text.WriteString(strings.TrimSpace(l) + "\n")
	}
	path := filepath.Join(storage.Root, "sandbox", "resolv.conf")
	if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
		return fmt.Errorf("write the guest's resolv.conf: %w", err)
	}
	return mount.Bind(path, guestResolvConf)
}

var containerID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]+$`)

// maxID is the longest id that still names a directory.
const maxID = 255

// taken are the names beside those of containers below [storage.Root].
var taken = []string{"sandbox", "shared"}

// CheckID refuses what cannot be a container's id.
func CheckID(id string) error {
	if len(id) > maxID || !containerID.MatchString(id) || slices.Contains(taken, id) {
		return fmt.Errorf("invalid container ID %.80q: %w", id, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Container finds a container; the error is of class InvalidArgument, by which
// the protocol tells it from an unknown process.
func (s *Sandbox) Container(id string) (*container.Container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.containers[id]; e != nil && e.c != nil {
		return e.c, nil
	}
	return nil, fmt.Errorf("Invalid container id %.80q: there is no such container: %w", id, errdefs.ErrInvalidArgument)
}

// NextOOM waits for a container in which the kernel kills a process for want of
// memory; every container is told once. After Destroy the error is of class
// Unavailable.
func (s *Sandbox) NextOOM(ctx context.Context) (string, error) {
	select {
	case id := <-s.ooms:
		return id, nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	case <-s.ctx.Done():
		return "", ErrDestroyed
	}
}

// ErrDestroyed says that the sandbox is no more.
var ErrDestroyed = fmt.Errorf("the sandbox is destroyed: %w", errdefs.ErrUnavailable)

// Destroy removes every container and everything mounted. It goes on where
// something fails, since the guest ends after it. A second one is refused.
func (s *Sandbox) Destroy(ctx context.Context) error {
	s.mu.Lock()
	if s.state == stateDestroyed {
		s.mu.Unlock()
		return fmt.Errorf("failed to get sandbox sender channel: %w", ErrDestroyed)
	}
	s.state = stateDestroyed
	ids := make([]string, 0, len(s.containers))
	for id, e := range s.containers {
		if e.c != nil { // else its creation fails now, and takes everything back
			ids = append(ids, id)
		}
	}
	ns := s.namespaces
	s.mu.Unlock()
	s.end()

	var wait sync.WaitGroup
	for _, id := range ids {
		wait.Go(func() {
			if err := s.RemoveContainer(ctx, id); err != nil {
				slog.Error("destroy sandbox", "container", id, "error", err)
			}
		})
	}
	wait.Wait()
	s.Storages.Close(ctx)
	s.mu.Lock()
	pids := s.pids
	s.pids = sharedPIDs{}
	s.mu.Unlock()
	if err := errors.Join(pids.close(ctx), ns.close()); err != nil {
		slog.Error("destroy sandbox", "error", err)
	}
	return nil
}
