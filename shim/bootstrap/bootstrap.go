// Package bootstrap is the handshake between containerd and a shim that is not
// running yet, or no more: the calls "start" and "delete" of the shim's program.
//
// Both run in the bundle's directory. start answers with the address of the
// shim, the running one for a later container of a pod: a BootstrapResult to a
// containerd that sends a BootstrapParams, JSON to one that says it knows a newer
// task API, the plain "unix://..." form to others. delete is called each time that
// containerd's connection for a task has closed, be it in good order or not, and
// takes back what is left, from what is on disk.
package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/containerd/namespaces"
	"github.com/containerd/containerd/runtime/v2/shim"
	"github.com/containerd/errdefs"

	"github.com/kata-cc/kata-cc/internal/undo"
	"github.com/kata-cc/kata-cc/mounts"
	"github.com/kata-cc/kata-cc/sandbox"
)

// Manager answers start and delete.
type Manager struct {
	// Runtime is the name of the runtime, such as "io.containerd.kata-cc.v2".
	Runtime string
	// StateDir is where the records of sandboxes are; empty: sandbox's default.
	StateDir string
	// ReapVM ends a machine from what is on disk.
	ReapVM sandbox.ReapVM
}

var _ shim.Manager = (*Manager)(nil)

// Name implements shim.Manager.
func (m *Manager) Name() string { return m.Runtime }

// Start implements shim.Manager: it returns the address of the shim for the
// container whose bundle is the working directory, and starts one for a new
// sandbox.
func (m *Manager) Start(ctx context.Context, id string, o shim.StartOpts) (string, error) {
	params, err := readParams(os.Stdin)
	if err != nil {
		return "", err
	}
	address, err := m.start(ctx, id, o, params)
	if err != nil {
		return "", err
	}
	return answer(params, id, address, maxVersion())
}

func (m *Manager) start(ctx context.Context, id string, o shim.StartOpts, params []byte) (_ string, err error) {
	annotations, err := readAnnotations(".")
	if errors.Is(err, fs.ErrNotExist) {
		annotations = nil // a sandbox of the sandbox API, which has no specification
	} else if err != nil {
		return "", err
	}
	kind, sandboxID, err := mounts.Identify(annotations, id)
	if err != nil {
		return "", err
	}
	address, err := shim.SocketAddress(ctx, o.Address, sandboxID)
	if err != nil {
		return "", err
	}
	if kind == mounts.PodContainer {
		if !alive(address) {
			return "", fmt.Errorf("the shim of sandbox %s does not answer at %s: %w", sandboxID, address, errdefs.ErrUnavailable)
		}
		return address, shim.WriteAddress("address", address)
	}

	var back undo.Stack
	defer back.OnError(ctx, &err)
	listener, err := listen(address)
	if errors.Is(err, errdefs.ErrAlreadyExists) {
		return address, shim.WriteAddress("address", address)
	}
	if err != nil {
		return "", err
	}
	back.Add(func(context.Context) error { return removeSocket(address) })
	defer func() { _ = listener.Close() }() // the server has its own
	pid, err := serve(ctx, id, o, params, listener, &back)
	if err != nil {
		return "", err
	}
	if err := shim.AdjustOOMScore(pid); err != nil {
		return "", err
	}
	if err := shim.WritePidFile("shim.pid", pid); err != nil {
		return "", err
	}
	return address, shim.WriteAddress("address", address)
}

// listen makes the shim's socket. One that is left of a shim that died is
// replaced; if one answers at the address, the error is ErrAlreadyExists.
func listen(address string) (*net.UnixListener, error) {
	l, err := shim.NewSocket(address)
	if err == nil || !shim.SocketEaddrinuse(err) {
		return l, err
	}
	if alive(address) {
		return nil, fmt.Errorf("a shim answers at %s: %w", address, errdefs.ErrAlreadyExists)
	}
	if err := removeSocket(address); err != nil {
		return nil, err
	}
	return shim.NewSocket(address)
}

func removeSocket(address string) error {
	if err := shim.RemoveSocket(address); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// serve starts this program anew as the server of the socket, in a process group
// of its own, and returns its pid.
func serve(ctx context.Context, id string, o shim.StartOpts, params []byte, l *net.UnixListener, back *undo.Stack) (int, error) {
	namespace, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return 0, err
	}
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	config, err := configOf(params)
	if err != nil {
		return 0, err
	}
	socket, err := l.File()
	if err != nil {
		return 0, err
	}
	defer socket.Close()
	l.SetUnlinkOnClose(false)

	args := []string{"-namespace", namespace, "-id", id, "-address", o.Address}
	if o.Debug {
		args = append(args, "-debug")
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=2")
	if config != "" {
		cmd.Env = append(cmd.Env, envConfig+"="+config)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.ExtraFiles = []*os.File{socket}
	if err := startScheduled(cmd); err != nil {
		return 0, fmt.Errorf("start the shim's server: %w", err)
	}
	back.Add(func(context.Context) error {
		err := cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		return err
	})
	return cmd.Process.Pid, nil
}

// pidFile reads the pid that Start wrote into the bundle; 0 if there is none.
func pidFile(bundle string) int {
	text, err := os.ReadFile(filepath.Join(bundle, "shim.pid"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return 0
	}
	return pid
}
