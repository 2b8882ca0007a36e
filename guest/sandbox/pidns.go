package sandbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/guest/container"
	"github.com/kata-cc/kata-cc/guest/ocispec"
	"github.com/kata-cc/kata-cc/guest/pause"
	"github.com/kata-cc/kata-cc/guest/storage"
	"github.com/kata-cc/kata-cc/internal/undo"
)

// A pid namespace lives by its process 1: with it the kernel kills all others,
// and none can enter any more. The one that a pod's containers share is that of
// the first container, as long as that did not ask for a shared one itself: then
// it is the pause container. Where there is none, or it has ended, a process of
// the agent's own is process 1 of a new namespace.

// holderID is the name of that process's container. No other can be called so.
const holderID = "_" + pause.Name

// sharedPIDs is the pid namespace that containers share.
type sharedPIDs struct {
	file   *os.File
	init   *container.Container // whose init is process 1
	holder bool                 // init is the agent's own
}

// gone says whether there is no namespace to enter.
func (p sharedPIDs) gone() bool { return p.file == nil || p.init.Ending() }

// path is where the OCI runtime finds the namespace.
func (p sharedPIDs) path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), p.file.Fd())
}

// pidsOf is the pid namespace of a container.
func pidsOf(c *container.Container) (sharedPIDs, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/pid", c.InitPid()))
	if err != nil {
		return sharedPIDs{}, fmt.Errorf("open the pid namespace of %s: %w", c.ID, err)
	}
	return sharedPIDs{file: f, init: c}, nil
}

// close lets the namespace go, and ends the process that was made for it.
func (p sharedPIDs) close(ctx context.Context) error {
	if p.file == nil {
		return nil
	}
	err := p.file.Close()
	if p.holder {
		err = errors.Join(err, p.init.Remove(ctx), os.RemoveAll(filepath.Join(storage.Root, holderID)))
	}
	return err
}

// sharePIDs returns the path of the shared pid namespace, and makes one if there
// is none. A process for it gets the cgroup of that name.
func (s *Sandbox) sharePIDs(ctx context.Context, cgroup string) (string, error) {
	select {
	case s.makingPIDs <- struct{}{}: // one at a time
		defer func() { <-s.makingPIDs }()
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	s.mu.Lock()
	shared := s.pids
	s.mu.Unlock()
	if !shared.gone() {
		return shared.path(), nil
	}
	if shared.holder {
		slog.Warn("process 1 of the shared pid namespace has ended; containers made from now on share a new one")
		if err := shared.init.Remove(ctx); err != nil {
			return "", fmt.Errorf("remove what held the shared pid namespace: %w", err)
		}
	}
	held, err := s.holdPIDs(ctx, cgroup)
	if err != nil {
		return "", fmt.Errorf("hold the shared pid namespace: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == stateDestroyed {
		return "", errors.Join(ErrDestroyed, held.close(context.WithoutCancel(ctx)))
	}
	if s.pids.file != nil {
		s.pids.file.Close()
	}
	s.pids = held
	return held.path(), nil
}

// holdPIDs starts a process that holds a new pid namespace. On error nothing stays.
func (s *Sandbox) holdPIDs(ctx context.Context, cgroup string) (held sharedPIDs, err error) {
	var back undo.Stack
	defer back.OnError(ctx, &err)
	program, err := pause.Program()
	if err != nil {
		return held, err
	}
	bundle := filepath.Join(storage.Root, holderID)
	rootfs := filepath.Join(bundle, "rootfs")
	back.Add(func(context.Context) error { return os.RemoveAll(bundle) })
	if err = os.MkdirAll(rootfs, 0o755); err != nil {
		return held, err
	}
	if err = os.WriteFile(filepath.Join(rootfs, pause.Name), program, 0o555); err != nil {
		return held, err
	}
	c, err := s.Runtime.Create(ctx, holderID, bundle, holderSpec(rootfs, cgroup))
	if err != nil {
		return held, err
	}
	back.Add(c.Remove)
	if err = c.Start(ctx); err != nil {
		return held, err
	}
	if held, err = pidsOf(c); err != nil {
		return held, err
	}
	held.holder = true
	return held, nil
}

// nobody is a user that owns nothing.
const nobody = 65534

// holderOOM is for the kernel to kill everything else first.
const holderOOM = -998

// oomScore is the holder's: holderOOM, if this process may give it. An agent that
// is no guest's init may not.
func oomScore() *int {
	score := 0
	if may, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, unix.CAP_SYS_RESOURCE, 0, 0, 0); err == nil && may == 1 {
		score = holderOOM
	}
	return &score
}

// holderSpec confines the process to a file system that has but its program, and
// to the calls that it makes; with these it can do nothing in the guest's other
// namespaces.
func holderSpec(rootfs, cgroup string) *specs.Spec {
	return &specs.Spec{
		Version: ocispec.Version,
		Process: &specs.Process{
			Args: []string{"/" + pause.Name}, Cwd: "/", User: specs.User{UID: nobody, GID: nobody},
			Capabilities: &specs.LinuxCapabilities{}, NoNewPrivileges: true, OOMScoreAdj: oomScore(),
		},
		Root: &specs.Root{Path: rootfs, Readonly: true},
		// crun makes devices, and here they are seen by nobody.
		Mounts: []specs.Mount{{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "noexec", "ro", "mode=755"}}},
		Linux: &specs.Linux{
			CgroupsPath: cgroup,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.CgroupNamespace},
			},
			Seccomp: &specs.LinuxSeccomp{
				DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchX86_64},
				// execve is crun's, to become the program.
				Syscalls: []specs.LinuxSyscall{{Names: append([]string{"execve"}, pause.Syscalls...), Action: specs.ActAllow}},
			},
		},
	}
}
