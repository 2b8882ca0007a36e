// Package storage mounts what the host hands in, each mount point once for the
// whole sandbox.
//
// A mount point is counted: the first container that names it mounts it, later
// ones must describe it in the same words, the last one to go unmounts it, but
// for guest memory and directories, which are the pod's and go with the sandbox.
//
//	absent ──first Acquire──▶ mounting ──▶ mounted ──last Release──▶ unmounting ──▶ absent
//	             failed: everything taken back, absent      failed: tried again by the next Acquire or Release
package storage

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/guest/block"
	"github.com/kata-cc/kata-cc/internal/undo"
)

// Root is the directory which every mount point is below.
const Root = "/run/kata-containers"

// Layers is where layers are mounted, by their ids.
const Layers = Root + "/sandbox/layers"

// Set is the storages of a sandbox.
type Set struct {
	Disks block.Finder

	mu     sync.Mutex
	mounts map[string]*mounted // by mount point
}

// mounted is one mount point in use.
type mounted struct {
	storage *agentpb.Storage
	users   int
	kept    bool // stays mounted without users
	undo    undo.Stack
	settled chan struct{} // closed when neither being mounted nor being unmounted
}

// New is an empty set, whose disks are found by d.
func New(d block.Finder) *Set {
	return &Set{Disks: d, mounts: make(map[string]*mounted)}
}

// Acquire mounts st for a container, or counts one more user of what is mounted
// there already. container is empty for a storage of the sandbox itself. On
// error nothing stays.
func (s *Set) Acquire(ctx context.Context, st *agentpb.Storage, container string) error {
	if err := checkMountPoint(st.GetMountPoint()); err != nil {
		return err
	}
	for {
		m, first := s.join(st)
		if first {
			return s.mount(ctx, m, container)
		}
		select {
		case <-m.settled:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		s.mu.Lock()
		switch {
		case s.mounts[st.GetMountPoint()] != m:
			s.mu.Unlock() // it failed or went; begin anew
			continue
		case !proto.Equal(identity(m.storage), identity(st)):
			s.mu.Unlock()
			return fmt.Errorf("storage %s is mounted already, from %s %s, and differs from what is asked: %w",
				st.GetMountPoint(), m.storage.GetDriver(), m.storage.GetSource(), errdefs.ErrAlreadyExists)
		case m.users == 0 && !m.kept:
			s.mu.Unlock() // a release of it failed
			if err := s.unmount(ctx, m); err != nil {
				return err
			}
			continue
		}
		m.users++
		s.mu.Unlock()
		return nil
	}
}

// join finds the mount at st's mount point, or enters a new one, which the
// caller must then mount.
func (s *Set) join(st *agentpb.Storage) (m *mounted, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m = s.mounts[st.GetMountPoint()]; m != nil {
		return m, false
	}
	m = &mounted{storage: proto.CloneOf(st), users: 1, settled: make(chan struct{})}
	s.mounts[st.GetMountPoint()] = m
	return m, true
}

func (s *Set) mount(ctx context.Context, m *mounted, container string) error {
	err := s.drive(ctx, m, container)
	m.undo.OnError(ctx, &err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		delete(s.mounts, m.storage.GetMountPoint())
	}
	close(m.settled)
	return err
}

// drive mounts m by its driver; the effects are on m.undo, also on error.
func (s *Set) drive(ctx context.Context, m *mounted, container string) error {
	st := m.storage
	driver, ok := drivers[st.GetDriver()]
	if !ok {
		return fmt.Errorf("Failed to find the storage handler %s: %w", st.GetDriver(), errdefs.ErrInvalidArgument)
	}
	if err := driver(ctx, &job{set: s, st: st, container: container, undo: &m.undo}); err != nil {
		return fmt.Errorf("storage %s of driver %s: %w", st.GetMountPoint(), st.GetDriver(), err)
	}
	return applyGroup(st)
}

// Release gives back one use of a mount point; the last one unmounts it. A mount
// point that is not in use is success.
func (s *Set) Release(ctx context.Context, mountPoint string) error {
	s.mu.Lock()
	m := s.mounts[mountPoint]
	if m == nil {
		s.mu.Unlock()
		return nil
	}
	m.users = max(m.users-1, 0)
	last := m.users == 0 && !m.kept
	s.mu.Unlock()
	if !last {
		return nil
	}
	return s.unmount(ctx, m)
}

// Keep makes the volumes of the pod among mount points outlive their users: the
// next container finds their data, such as the successor of one that has failed.
// A volume whose only container was never made is not kept.
func (s *Set) Keep(mountPoints []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, at := range mountPoints {
		if m := s.mounts[at]; m != nil && (m.storage.GetDriver() == driverEphemeral || m.storage.GetDriver() == driverLocal) {
			m.kept = true
		}
	}
}

// unmount takes m away, unless somebody has begun to use it again.
func (s *Set) unmount(ctx context.Context, m *mounted) error {
	s.mu.Lock()
	for !isClosed(m.settled) { // somebody else is at it
		settled := m.settled
		s.mu.Unlock()
		<-settled
		s.mu.Lock()
	}
	if m.users > 0 || s.mounts[m.storage.GetMountPoint()] != m {
		s.mu.Unlock()
		return nil
	}
	m.settled = make(chan struct{})
	s.mu.Unlock()

	err := m.undo.Run(context.WithoutCancel(ctx))

	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		delete(s.mounts, m.storage.GetMountPoint())
	} else {
		slog.Error("release storage", "path", m.storage.GetMountPoint(), "error", err)
	}
	close(m.settled)
	return err
}

// Close unmounts everything, whoever uses it.
func (s *Set) Close(ctx context.Context) {
	s.mu.Lock()
	var all []*mounted
	for _, m := range s.mounts {
		m.users = 0
		all = append(all, m)
	}
	s.mu.Unlock()
	// What is mounted on something goes before it.
	slices.SortFunc(all, func(a, b *mounted) int {
		return strings.Compare(rank(b.storage), rank(a.storage))
	})
	for _, m := range all {
		_ = s.unmount(ctx, m) // logged there
	}
}

// rank orders storages by what may need what: overlays lie on layers.
func rank(st *agentpb.Storage) string {
	if st.GetDriver() == driverOverlay {
		return "1" + st.GetMountPoint()
	}
	return "0" + st.GetMountPoint()
}

// Find returns the description of what is mounted at a mount point, nil if nothing is.
func (s *Set) Find(mountPoint string) *agentpb.Storage {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.mounts[mountPoint]; m != nil {
		return m.storage
	}
	return nil
}

// Within says in which mount point a path lies, if in any.
func (s *Set) Within(p string) (mountPoint string, within bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for dir := path.Clean(p); dir != "/" && dir != "."; dir = path.Dir(dir) {
		if s.mounts[dir] != nil {
			return dir, true
		}
	}
	return "", false
}

// identity is what two descriptions of one mount must agree in.
func identity(st *agentpb.Storage) *agentpb.Storage {
	return &agentpb.Storage{
		Driver: st.GetDriver(), Source: st.GetSource(), Fstype: st.GetFstype(), Options: st.GetOptions(), MountPoint: st.GetMountPoint(),
	}
}

// checkMountPoint refuses a path that is not below [Root]: the host must not
// cover the guest's own files.
func checkMountPoint(p string) error {
	if path.Clean(p) != strings.TrimSuffix(p, "/") || !strings.HasPrefix(p, Root+"/") || len(p) <= len(Root)+1 {
		return fmt.Errorf("mount point %q is not a plain path below %s: %w", p, Root, errdefs.ErrInvalidArgument)
	}
	return nil
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// removeDir takes back a mount point; a directory with content stays.
func removeDir(dir string) func(context.Context) error {
	return func(context.Context) error {
		_ = os.Remove(dir)
		return nil
	}
}
