// Package clh runs virtual machines in Cloud Hypervisor, versions 40 to 53, or
// in any VMM that is started like it and serves its API.
//
// One process per machine. The driver makes the machine's directory
// (/run/vc/vm/<sandbox>, mode 0700) and in it the listening API socket
// clh-api.sock, which the VMM inherits, so that the first request waits in its
// backlog and nobody polls; vmm.json says which process it is, for Reap. The VMM
// binds clh.sock, the host's end of the guest's vsock. Its event stream and its outputs are pipes that are always
// read. The wire is described in docs/cloud-hypervisor-api.md.
package clh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/internal/undo"
)

// DefaultDir holds a directory for each machine.
const DefaultDir = "/run/vc/vm"

// defaultSegments are room for 279 layers.
const defaultSegments = 10

// Options say how machines are run. Zero durations mean the default.
type Options struct {
	Path           string        // VMM binary
	Dir            string        // parent of the machines' directories; empty: DefaultDir
	DisableSeccomp bool          // run the VMM without its system call filter
	PCISegments    int           // those from 1 on take 31 hot-plugged disks each; 0: 10
	BootTimeout    time.Duration // vm.boot; default 60 s
	APITimeout     time.Duration // any other call; default 10 s
	HotplugTimeout time.Duration // vm.add-disk; default 10 s
	UnplugTimeout  time.Duration // until the guest lets go of a device; default 10 s
	StopTimeout    time.Duration // each step of Stop; default 3 s
}

// Driver launches machines.
type Driver struct{ o Options }

var _ hypervisor.Launcher = (*Driver)(nil)

// New makes a driver.
func New(o Options) *Driver {
	o.Dir = cmp.Or(o.Dir, DefaultDir)
	o.PCISegments = cmp.Or(o.PCISegments, defaultSegments)
	o.BootTimeout = cmp.Or(o.BootTimeout, bootTimeout)
	o.APITimeout = cmp.Or(o.APITimeout, apiTimeout)
	o.HotplugTimeout = cmp.Or(o.HotplugTimeout, hotplugTimeout)
	o.UnplugTimeout = cmp.Or(o.UnplugTimeout, unplugTimeout)
	o.StopTimeout = cmp.Or(o.StopTimeout, stopTimeout)
	return &Driver{o}
}

// Launch starts a VMM, describes the machine of spec to it and gives it the
// taps. On error nothing is left.
func (d *Driver) Launch(ctx context.Context, spec hypervisor.Spec) (hypervisor.VM, error) {
	m, err := d.launch(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("launch machine %s by %s: %w", spec.ID, d.o.Path, err)
	}
	return m, nil
}

func (d *Driver) launch(ctx context.Context, spec hypervisor.Spec) (_ *Machine, err error) {
	dir := filepath.Join(d.o.Dir, spec.ID)
	if err = checkSpec(spec, dir); err != nil {
		return nil, err
	}
	var back undo.Stack
	defer back.OnError(ctx, &err)
	if err = makeDir(dir, &back); err != nil {
		return nil, err
	}
	listener, err := listen(apiSocket(dir))
	if err != nil {
		return nil, err
	}
	keep := vmmCapabilities
	if spec.Confidential != nil {
		keep = protectedCapabilities
	}
	where, err := openBirthplace(spec.Cgroup)
	if err != nil {
		listener.Close()
		return nil, fmt.Errorf("look for the cgroup: %w", err)
	}
	p, err := start(d.o.Path, d.args(spec), spec.NetNS, where, keep, listener)
	listener.Close()
	where.close()
	if err != nil {
		return nil, err
	}
	m := newMachine(spec, dir, d.o, p)
	back.Add(m.Stop)
	if err := keepProcess(dir, p.id); err != nil {
		return nil, err
	}
	if err := m.describe(ctx, spec); err != nil {
		return nil, m.explain(err)
	}
	return m, nil
}

func (d *Driver) args(spec hypervisor.Spec) []string {
	args := []string{"--api-socket", "fd=3", "--event-monitor", "fd=4"}
	if spec.Debug {
		args = append(args, "-v")
	}
	if d.o.DisableSeccomp {
		args = append(args, "--seccomp", "false")
	}
	return args
}

// makeDir makes the machine's directory, which must not exist: what is in it
// would be another machine's.
func makeDir(dir string, back *undo.Stack) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		if errors.Is(err, os.ErrExist) {
			return fmt.Errorf("directory %s is there already, so a machine of this name runs or was not removed: %w", dir, errdefs.ErrAlreadyExists)
		}
		return err
	}
	back.Add(func(context.Context) error { return os.RemoveAll(dir) })
	return nil
}

// listen binds the API socket and returns it as a file to be inherited. The
// path stays until the directory is removed.
func listen(path string) (*os.File, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("make the API socket: %w", err)
	}
	defer func() { _ = l.Close() }()
	l.SetUnlinkOnClose(false)
	if err = os.Chmod(path, 0o600); err != nil {
		return nil, fmt.Errorf("make the API socket: %w", err)
	}
	f, err := l.File()
	if err != nil {
		return nil, fmt.Errorf("make the API socket: %w", err)
	}
	return f, nil
}
