// Package cluster is a node of its own for tests and for the demo: containerd
// with CRI, the tardev snapshotter, a CNI bridge and an image registry, all on
// private directories and sockets, with the runtime handler "kata-cc".
//
// Life of a cluster:
//
//	Start ──> running ──RunPod, CreateContainer, Exec … RemovePod──> running
//	                                └──Close──> nothing left on the host
//
// Several clusters may run at once: nothing of one is named like anything of
// another.
package cluster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kata-cc/kata-cc/internal/undo"
)

// Handler is the CRI runtime handler of confidential pods.
const Handler = "kata-cc"

// SandboxHandler is the same, but containerd makes its pods by the sandbox API,
// without a pause container. So it does for every handler whose name begins so.
const SandboxHandler = "kata-cc-sandbox"

// Options say how a cluster differs from the usual one.
type Options struct {
	VMM VMM // zero: ChooseVMM("")
	// Containerd is one of Containerds; empty: the default.
	Containerd string
	// Handlers are runtime handlers beside Handler, which differ from it in
	// their configuration.toml.
	Handlers map[string]Kata
	// Kata changes the configuration.toml of Handler and SandboxHandler.
	Kata Kata
	// Mirrors are host names of registries for which containerd asks the
	// cluster's own instead.
	Mirrors []string
}

// Kata is added to the keys of a generated configuration.toml, by table name:
// {"agent.kata": {"dial_timeout": 5}}.
type Kata map[string]map[string]any

// registries are the host names under which the cluster's registry is found.
func (o Options) registries() []string { return append([]string{Host}, o.Mirrors...) }

// Cluster is a running node. Its methods may be called from several goroutines.
type Cluster struct {
	Dir      string // everything it writes, apart from what the runtime keeps under /run
	Paths    Paths
	VMM      VMM
	Registry string // host:port of the registry on loopback

	containerd string // its version; empty: the default
	images     *images
	name       string // unique; names the bridge and the cgroup
	subnet     string
	idle       Census // without a pod
	undo       undo.Stack
	daemons    []*daemon

	mu  sync.Mutex
	ids []string // of sandboxes and containers, ever
}

// Start brings a cluster up and pulls no image yet. On error nothing is left.
func Start(ctx context.Context, o Options) (c *Cluster, err error) {
	p, err := FindPaths()
	if err != nil {
		return nil, err
	}
	if o.VMM == (VMM{}) {
		o.VMM = p.ChooseVMM("")
	}
	if missing := p.Missing(o.VMM); len(missing) > 0 {
		return nil, fmt.Errorf("a cluster needs %s", strings.Join(missing, ", "))
	}
	id := make([]byte, 3)
	_, _ = rand.Read(id)
	c = &Cluster{Paths: p, VMM: o.VMM, containerd: o.Containerd, name: "kcc" + hex.EncodeToString(id)}
	c.Dir = filepath.Join(os.TempDir(), "kata-cc-"+hex.EncodeToString(id))
	defer c.undo.OnError(ctx, &err)
	steps := []func(context.Context, Options) error{
		c.makeDirs, c.startRegistry, c.makeNetwork, c.makeCgroup, c.writeFiles, c.startSnapshotter, c.startContainerd,
	}
	for _, step := range steps {
		if err = step(ctx, o); err != nil {
			return nil, fmt.Errorf("start cluster %s: %w", c.Dir, err)
		}
	}
	c.idle, err = c.Census()
	return c, err
}

// Close removes the pods and then everything else. It may be called again.
func (c *Cluster) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	return errors.Join(c.drain(ctx), c.undo.Run(ctx))
}

// drain removes every pod. A request whose client went away is still being
// carried out, or undone, by containerd, so it goes on until nothing runs.
func (c *Cluster) drain(ctx context.Context) error {
	if c.idle == nil {
		return nil // no pod can have been started
	}
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	for {
		err := c.RemoveAll(ctx)
		now, censusErr := c.Census()
		left := now.Minus(c.idle)
		if censusErr != nil || err == nil && len(left["processes"])+len(left["network namespaces"])+len(left["mounts"]) == 0 {
			return censusErr
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, fmt.Errorf("still there before containerd is stopped:\n%s", left))
		case <-time.After(pollInterval):
		}
	}
}

// Env is the environment in which crictl, ctr and kata-runtime find this
// cluster without a flag.
func (c *Cluster) Env() []string {
	return append(os.Environ(), c.environment()...)
}

func (c *Cluster) environment() []string {
	return []string{
		"PATH=" + c.Paths.containerdDir(c.containerd) + ":" + c.Paths.search(),
		"CONTAINERD_ADDRESS=" + c.socket(),
		"CRI_CONFIG_FILE=" + filepath.Join(c.Dir, "crictl.yaml"),
		"KATA_CONF_FILE=" + c.KataConfig(Handler),
		// Every process that containerd starts inherits this, which is how the
		// census knows it from those of another cluster.
		"KATA_CC_CLUSTER=" + c.Dir,
	}
}

// EnvFile is a file for a person's shell to source.
func (c *Cluster) EnvFile() string { return filepath.Join(c.Dir, "env") }

// SnapshotterRoot is where the tardev snapshotter keeps layers and metadata.
func (c *Cluster) SnapshotterRoot() string { return filepath.Join(c.Dir, "tardev") }

// KataConfig is the configuration file of a runtime handler.
func (c *Cluster) KataConfig(handler string) string {
	return filepath.Join(c.Dir, "configuration-"+handler+".toml")
}

// Logs returns the last lines of every log of the cluster, for a failed step.
func (c *Cluster) Logs(lines int) string {
	var b strings.Builder
	for _, d := range c.daemons {
		fmt.Fprintf(&b, "--- %s\n%s\n", d.log, tail(d.log, lines))
	}
	return b.String()
}

func (c *Cluster) dir(name string) string { return filepath.Join(c.Dir, name) }
func (c *Cluster) socket() string         { return c.dir("containerd.sock") }
func (c *Cluster) tardevSocket() string   { return c.dir("tardev.sock") }

func (c *Cluster) makeDirs(_ context.Context, o Options) error {
	if err := os.Mkdir(c.Dir, 0o711); err != nil {
		return err
	}
	c.undo.Add(func(context.Context) error { return errors.Join(unmountBelow(c.Dir), os.RemoveAll(c.Dir)) })
	dirs := []string{"root", "state", "tardev", "log", "spec", "cni", "opt"}
	for _, host := range o.registries() {
		dirs = append(dirs, "hosts/"+host)
	}
	for _, d := range dirs {
		if err := os.MkdirAll(c.dir(d), 0o711); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) startRegistry(ctx context.Context, _ Options) error {
	images, err := serveImages()
	if err != nil {
		return err
	}
	c.undo.Add(func(context.Context) error { return images.server.Close() })
	c.Registry, c.images = images.addr, images
	return images.pushAll(ctx, c.Paths)
}

func (c *Cluster) startSnapshotter(ctx context.Context, _ Options) error {
	d, err := c.runSnapshotter(ctx)
	return c.own(d, err)
}

func (c *Cluster) runSnapshotter(ctx context.Context) (*daemon, error) {
	return startDaemon(ctx, c.Env(), c.dir("log/tardev-snapshotter.log"), c.tardevSocket(),
		filepath.Join(c.Paths.Bin, "tardev-snapshotter"), c.SnapshotterRoot(), c.tardevSocket(), c.socket())
}

// RestartSnapshotter ends the snapshotter and starts it again on the same data.
func (c *Cluster) RestartSnapshotter(ctx context.Context) error {
	i := slices.IndexFunc(c.daemons, func(d *daemon) bool { return d.name == "tardev-snapshotter" })
	if err := c.daemons[i].stop(); err != nil {
		return err
	}
	d, err := c.runSnapshotter(ctx)
	if err != nil {
		return err
	}
	c.daemons[i] = d
	c.undo.Add(func(context.Context) error { return d.stop() })
	return nil
}

func (c *Cluster) startContainerd(ctx context.Context, _ Options) error {
	d, err := c.runContainerd(ctx)
	if err = c.own(d, err); err != nil {
		return err
	}
	return c.awaitCRI(ctx)
}

func (c *Cluster) runContainerd(ctx context.Context) (*daemon, error) {
	return startDaemon(ctx, c.Env(), c.dir("log/containerd.log"), c.socket(),
		filepath.Join(c.Paths.containerdDir(c.containerd), "containerd"), "--config", c.dir("containerd.toml"))
}

// RestartContainerd ends containerd, calls meanwhile, and starts it again on the
// same data. What the shims run goes on.
func (c *Cluster) RestartContainerd(ctx context.Context, meanwhile func()) error {
	i := slices.IndexFunc(c.daemons, func(d *daemon) bool { return d.name == "containerd" })
	if err := c.daemons[i].stop(); err != nil {
		return err
	}
	meanwhile()
	d, err := c.runContainerd(ctx)
	if err != nil {
		return err
	}
	c.daemons[i] = d
	c.undo.Add(func(context.Context) error { return d.stop() })
	return c.awaitCRI(ctx)
}

// own keeps a daemon that was started and enters its end into the undo stack.
func (c *Cluster) own(d *daemon, err error) error {
	if err != nil {
		return err
	}
	c.daemons = append(c.daemons, d)
	c.undo.Add(func(context.Context) error { return d.stop() })
	return nil
}

// Namespace is containerd's namespace for containers that are run without CRI.
const Namespace = "kata-cc"

// Unique makes the id of a container that is run without CRI, so that the
// census knows its traces.
func (c *Cluster) Unique(name string) string {
	id := c.name + "-" + name
	c.remember(id)
	return id
}

// remember notes an id whose traces the census looks for.
func (c *Cluster) remember(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Contains(c.ids, id) {
		c.ids = append(c.ids, id)
	}
}

// RememberAll notes every id of a sandbox or container in what another client of
// the cluster's containerd printed.
func (c *Cluster) RememberAll(text string) {
	for _, id := range idPattern.FindAllString(text, -1) {
		c.remember(id)
	}
}

func (c *Cluster) known() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.ids)
}
