// Command containerd-shim-kata-cc-v2 is a containerd runtime v2 shim that runs
// each pod in a confidential virtual machine. containerd starts it; people call
// it with --version.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"

	"github.com/containerd/containerd/plugin"
	containerd "github.com/containerd/containerd/runtime/v2/shim"
	"github.com/containerd/log"

	"github.com/kata-cc/kata-cc/configuration"
	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/hypervisor/clh"
	"github.com/kata-cc/kata-cc/shim"
	"github.com/kata-cc/kata-cc/shim/bootstrap"
)

// runtimeName is how containerd's configuration names this runtime.
const runtimeName = "io.containerd.kata-cc.v2"

// memoryLimit makes the garbage collector work harder long before a shim is as
// large as the memory that a node reserves for one, in bytes.
const memoryLimit = 32 << 20

func main() {
	if answered, err := answer(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", runtimeName, err)
		os.Exit(1)
	} else if answered {
		return
	}
	debug.SetMemoryLimit(memoryLimit)
	plugin.Register(&plugin.Registration{
		Type:     plugin.TTRPCPlugin,
		ID:       "task",
		Requires: []plugin.Type{plugin.EventPlugin, plugin.InternalPlugin},
		InitFn:   newService,
	})
	containerd.RunManager(context.Background(), &bootstrap.Manager{Runtime: runtimeName, ReapVM: reapVM},
		func(c *containerd.Config) { c.NoReaper, c.NoSubreaper = true, true }) // os/exec waits for every child
}

// answer answers what is asked of the program itself rather than of a shim,
// whatever else is on the command line.
func answer(args []string) (bool, error) {
	asked := func(names ...string) bool {
		return slices.ContainsFunc(args, func(a string) bool { return slices.Contains(names, a) })
	}
	switch {
	case asked("-info", "--info"):
		return true, bootstrap.WriteInfo(os.Stdout, runtimeName)
	case asked("-v", "--v", "-version", "--version"):
		return true, bootstrap.WriteVersion(os.Stdout, filepath.Base(os.Args[0]))
	}
	return false, nil
}

// shutdown is what containerd's shim library offers under this name.
type shutdown interface {
	Shutdown()
	RegisterCallback(func(context.Context) error)
}

// newService makes the task service and enters its one callback at shutdown.
func newService(ic *plugin.InitContext) (any, error) {
	instance, err := ic.GetByID(plugin.InternalPlugin, "shutdown")
	if err != nil {
		return nil, err
	}
	sd := instance.(shutdown)
	if instance, err = ic.GetByID(plugin.EventPlugin, "publisher"); err != nil {
		return nil, err
	}
	publisher := instance.(containerd.Publisher)

	service, err := shim.New(ic.Context, shim.Options{
		NewLauncher:   newLauncher,
		EventsAddress: os.Getenv("TTRPC_ADDRESS"),
		Exit:          sd.Shutdown,
	})
	if err != nil {
		return nil, err
	}
	sd.RegisterCallback(func(ctx context.Context) error {
		defer func() {
			if err := publisher.Close(); err != nil { // the library's own, which we do not use, must be seen closed
				log.G(ctx).WithError(err).Debug("close publisher")
			}
		}()
		return service.Close(ctx)
	})
	return service, nil
}

func newLauncher(c *configuration.Config) (hypervisor.Launcher, error) {
	return clh.New(clh.Options{Path: c.Hypervisor.Path, DisableSeccomp: c.Hypervisor.DisableSeccomp}), nil
}

func reapVM(ctx context.Context, id string, p hypervisor.Process) error {
	return clh.Reap(ctx, filepath.Join(clh.DefaultDir, id), p)
}
