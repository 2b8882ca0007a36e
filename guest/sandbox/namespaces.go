package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/guest/mount"
	"github.com/kata-cc/kata-cc/guest/reaper"
)

// namespaceDir is where the sandbox's namespaces are bound to files; it is the
// same as /var/run/sandbox-ns.
const namespaceDir = "/run/sandbox-ns"

// namespaces are the paths of what the containers of a sandbox share.
type namespaces struct{ ipc, uts string }

// newNamespaces makes the ipc and uts namespaces of the sandbox, with hostname
// in the latter, and binds them to files so that they outlive every process.
func newNamespaces(hostname string) (ns namespaces, err error) {
	ns = namespaces{ipc: filepath.Join(namespaceDir, "ipc"), uts: filepath.Join(namespaceDir, "uts")}
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		result <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWIPC | unix.CLONE_NEWUTS); err != nil {
				return fmt.Errorf("make the sandbox's namespaces: %w", err)
			}
			if hostname != "" {
				if err := unix.Sethostname([]byte(hostname)); err != nil {
					return fmt.Errorf("set the sandbox's host name %q: %w", hostname, err)
				}
			}
			return errors.Join(mount.Bind("/proc/thread-self/ns/ipc", ns.ipc), mount.Bind("/proc/thread-self/ns/uts", ns.uts))
		}()
	}()
	if err := <-result; err != nil {
		return namespaces{}, errors.Join(err, ns.close())
	}
	return ns, nil
}

// close lets the namespaces go.
func (n namespaces) close() error {
	if n.ipc == "" {
		return nil
	}
	return errors.Join(mount.Unmount(n.ipc), mount.Unmount(n.uts), os.RemoveAll(namespaceDir))
}

// modprobe loads kernel modules by name.
const modprobe = "/sbin/modprobe"

// loadModules loads the kernel modules which a sandbox asks for.
func loadModules(ctx context.Context, r *reaper.Reaper, modules []*agentpb.KernelModule) error {
	for _, m := range modules {
		if m.GetName() == "" || m.GetName()[0] == '-' {
			return fmt.Errorf("Kernel module name is empty, or an option: %q: %w", m.GetName(), errdefs.ErrInvalidArgument)
		}
		cmd := exec.CommandContext(ctx, modprobe, append([]string{"-v", m.GetName()}, m.GetParameters()...)...)
		child, err := r.StartChild(cmd)
		if err != nil {
			return fmt.Errorf("load kernel module %s: %w", m.GetName(), err)
		}
		<-child.Done()
		reaper.Finish(cmd)
		if status := child.Status(); status != 0 {
			return fmt.Errorf("load kernel module %s: load_kernel_module return code: %d: %w", m.GetName(), status, errdefs.ErrInternal)
		}
	}
	return nil
}
