package conformance

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/kata-cc/kata-cc/agentclient/agenttest"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
	"github.com/kata-cc/kata-cc/network"
)

const namespace = "conformance"

// host plays containerd and everything around it for one story.
type host struct {
	t         testing.TB
	dir       string
	address   string // containerd's, of which the shim's sockets are named
	config    string // the runtime's configuration
	script    memory.Script
	flavour   agenttest.Flavour
	prefix    string // of every id, unlike those of other stories
	sink      *sink
	shims     []*shim
	sandboxes []string
	cgroups   []string // made by the story itself
	run       string   // where the shim's /run/vc is seen
	stdin     []byte   // what start reads, as from a containerd before 2.3
	after     []func() // called when all has been checked
	enter     []string // the program that runs the shim elsewhere, and its arguments
	mu        sync.Mutex
}

// newHost prepares a host whose machines follow the script. When the story ends
// it fails if something is left.
func newHost(t testing.TB, script memory.Script) *host {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir, err := os.MkdirTemp("", "kcc") // short: socket paths are limited
	if err != nil {
		t.Fatal(err)
	}
	var random [4]byte
	rand.Read(random[:])
	h := &host{
		t: t, dir: dir, address: filepath.Join(dir, "containerd.sock"), config: filepath.Join(dir, "configuration.toml"),
		script: script, flavour: agenttest.Ours, run: "/run/vc", prefix: "kcc" + hex.EncodeToString(random[:]),
	}
	if h.script.Hybrid == "" && h.script.Vsock == nil {
		h.script.Hybrid = filepath.Join(dir, "{id}.agent")
	}
	h.sink = newSink(t, filepath.Join(dir, "events.sock"))
	h.write("kernel", strings.Repeat("k", 4096))
	h.write("initrd", strings.Repeat("i", 4096))
	h.write("resolv.conf", "nameserver 192.0.2.1\n")
	h.configure(vmmBinary, "dial_timeout = 10\n")
	t.Cleanup(h.end)
	return h
}

// configure writes the runtime's configuration; agent are lines of [agent.kata].
func (h *host) configure(vmm, agent string) {
	h.write("configuration.toml", fmt.Sprintf(`[hypervisor.clh]
path = %q
kernel = %q
initrd = %q
default_memory = 256
enable_debug = true
[agent.kata]
%s
`, vmm, filepath.Join(h.dir, "kernel"), filepath.Join(h.dir, "initrd"), agent))
}

func (h *host) write(name, text string) string {
	h.t.Helper()
	path := filepath.Join(h.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		h.t.Fatal(err)
	}
	return path
}

// id makes the id of a container.
func (h *host) id(name string) string { return h.prefix + "-" + name }

// newAgent puts a scripted agent where the machine of a sandbox will look for it.
func (h *host) newAgent(sandbox string) *agenttest.Agent {
	h.t.Helper()
	a := agenttest.Start(h.t, h.flavour)
	if err := a.ListenHybrid(filepath.Join(h.dir, sandbox+".agent")); err != nil {
		h.t.Fatal(err)
	}
	return a
}

// layer makes a layer file and returns its name.
func (h *host) layer(content string) string {
	h.t.Helper()
	sum := sha256.Sum256([]byte(content))
	name := hex.EncodeToString(sum[:])
	h.write("layers/"+name, strings.Repeat(content[:1], 3*4096))
	return name
}

// rootfs is the mount that the tardev snapshotter gives for layers, the top one
// first.
func (h *host) rootfs(layers ...string) []*types.Mount {
	options := []string{"io.katacontainers.fs-opt.layer-src-prefix=" + filepath.Join(h.dir, "layers")}
	for _, name := range layers {
		text := name + ",tar,ro,io.katacontainers.fs-opt.block_device=file,io.katacontainers.fs-opt.is-layer,io.katacontainers.fs-opt.root-hash=" + strings.Repeat("0a", 32)
		options = append(options, "io.katacontainers.fs-opt.layer="+base64.StdEncoding.EncodeToString([]byte(text)))
	}
	options = append(options, "io.katacontainers.fs-opt.overlay-rw", "lowerdir="+strings.Join(layers, ":"))
	return []*types.Mount{{Type: "fuse3.kata-overlay", Source: "/", Options: options}}
}

// change alters a specification before it is written.
type change func(*specs.Spec)

func args(a ...string) change { return func(s *specs.Spec) { s.Process.Args = a } }

func netns(path string) change {
	return func(s *specs.Spec) { s.Linux.Namespaces[0].Path = path }
}

// inPod makes the specification that of a container of a pod; the pause
// container is the one with the pod's id.
func inPod(sandbox, id string) change {
	return func(s *specs.Spec) {
		kind := "container"
		if sandbox == id {
			kind = "sandbox"
		}
		s.Annotations["io.kubernetes.cri.container-type"] = kind
		s.Annotations["io.kubernetes.cri.sandbox-id"] = sandbox
	}
}

// bundle makes a bundle as containerd does, its log fifo included.
func (h *host) bundle(id string, changes ...change) string {
	h.t.Helper()
	spec := &specs.Spec{
		Version: "1.1.0", Hostname: "conformance", Annotations: map[string]string{},
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: []string{"sleep", "inf"}, Cwd: "/", Env: []string{"PATH=/bin"}},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/etc/resolv.conf", Type: "bind", Source: filepath.Join(h.dir, "resolv.conf"), Options: []string{"rbind", "ro"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/" + h.prefix + "/" + id,
			Namespaces:  []specs.LinuxNamespace{{Type: specs.NetworkNamespace}, {Type: specs.PIDNamespace}, {Type: specs.MountNamespace}},
		},
	}
	for _, c := range changes {
		c(spec)
	}
	text, err := json.Marshal(spec)
	if err != nil {
		h.t.Fatal(err)
	}
	h.write("bundles/"+id+"/config.json", string(text))
	bundle := filepath.Join(h.dir, "bundles", id)
	if err := os.MkdirAll(filepath.Join(bundle, "rootfs"), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(bundle, "log"), 0o700); err != nil {
		h.t.Fatal(err)
	}
	return bundle
}

// makeCgroup makes the cgroup above those of the sandboxes, as kubelet does, and
// removes it after the story. Otherwise the first sandbox makes it, and can
// remove it only if it is the last.
func (h *host) makeCgroup() {
	h.t.Helper()
	roots := []string{"/sys/fs/cgroup"}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil {
		roots, _ = filepath.Glob("/sys/fs/cgroup/*")
	}
	for _, root := range roots {
		dir := filepath.Join(root, h.prefix)
		if err := os.Mkdir(dir, 0o755); err != nil {
			h.t.Fatal(err)
		}
		h.cgroups = append(h.cgroups, dir)
	}
}

// fifo makes a fifo for a stream.
func (h *host) fifo(name string) string {
	h.t.Helper()
	path := filepath.Join(h.dir, "io", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := unix.Mkfifo(path, 0o700); err != nil {
		h.t.Fatal(err)
	}
	return path
}

// limit is how long any request may take in a story.
const limit = 30 * time.Second

func (h *host) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	h.t.Cleanup(cancel)
	return ctx
}

// eventually waits until ok, and fails with what otherwise.
func (h *host) eventually(what string, ok func() bool) {
	h.t.Helper()
	deadline := time.Now().Add(limit)
	for !ok() {
		if time.Now().After(deadline) {
			h.t.Fatalf("after %v still not: %s", limit, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// end is the leak gate: what is still there when a story is over is a failure,
// and is removed.
func (h *host) end() {
	for _, s := range h.shims {
		s.disconnect()
	}
	h.sink.close()
	for _, dir := range h.cgroups {
		if err := unix.Rmdir(dir); err != nil {
			h.t.Errorf("remove %s: %v", dir, err)
		}
	}
	for _, s := range h.shims {
		for _, a := range s.refusals() {
			if a.code == codes.Unknown {
				h.t.Errorf("%s was refused without a code: %s", a.rpc, a.text)
			}
		}
	}
	var left []string
	deadline := time.Now().Add(3 * time.Second)
	for left = h.left(); len(left) > 0 && time.Now().Before(deadline); left = h.left() {
		time.Sleep(20 * time.Millisecond)
	}
	if len(left) > 0 {
		h.t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
		h.remove()
	}
	if h.t.Failed() {
		for _, s := range h.shims {
			h.t.Logf("log of shim %s:\n%s", s.id, s.log())
		}
	}
	os.RemoveAll(h.dir)
	for _, f := range h.after {
		f()
	}
}

// left lists what is there of the story's sandboxes.
func (h *host) left() []string {
	var found []string
	for pid, cmdline := range h.processes() {
		found = append(found, fmt.Sprintf("process %d: %s", pid, cmdline))
	}
	patterns := []string{
		h.run + "/vm/" + h.prefix + "*", h.run + "/sbs/" + h.prefix + "*",
		"/sys/fs/cgroup/" + h.prefix, "/sys/fs/cgroup/*/" + h.prefix,
	}
	h.mu.Lock()
	for _, id := range h.sandboxes {
		patterns = append(patterns, socketOf(h.address, id), network.Path(id))
	}
	h.mu.Unlock()
	for _, p := range patterns {
		paths, _ := filepath.Glob(p)
		found = append(found, paths...)
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, h.dir) || strings.Contains(line, h.prefix) {
			found = append(found, "mount "+line)
		}
	}
	slices.Sort(found)
	return found
}

// processes finds those that the story started: they inherited the place of its
// script.
func (h *host) processes() map[int]string {
	found := map[int]string{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		var pid int
		if _, err := fmt.Sscan(e.Name(), &pid); err != nil || pid == os.Getpid() {
			continue
		}
		environ, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if !strings.Contains(string(environ), memory.ScriptEnv+"="+h.dir) {
			continue
		}
		cmdline, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if len(cmdline) == 0 {
			continue // a zombie
		}
		found[pid] = strings.ReplaceAll(string(cmdline), "\x00", " ")
	}
	return found
}

// vmms are the pids of the VMMs that run.
func (h *host) vmms() []int {
	var pids []int
	for pid, cmdline := range h.processes() {
		if strings.Contains(cmdline, "--api-socket") {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (h *host) remove() {
	for pid := range h.processes() {
		unix.Kill(pid, unix.SIGKILL)
	}
	time.Sleep(50 * time.Millisecond)
	for _, p := range []string{"/vm/", "/sbs/"} {
		paths, _ := filepath.Glob(h.run + p + h.prefix + "*")
		for _, path := range paths {
			os.RemoveAll(path)
		}
	}
	for _, p := range []string{"/sys/fs/cgroup/" + h.prefix + "/*", "/sys/fs/cgroup/*/" + h.prefix + "/*", "/sys/fs/cgroup/" + h.prefix, "/sys/fs/cgroup/*/" + h.prefix} {
		paths, _ := filepath.Glob(p)
		for _, path := range paths {
			unix.Rmdir(path)
		}
	}
	for _, id := range h.sandboxes {
		os.Remove(socketOf(h.address, id))
		_ = network.Delete(network.Path(id))
	}
}

// socketOf is where containerd and the shim agree that the shim listens.
func socketOf(address, id string) string {
	sum := sha256.Sum256([]byte(filepath.Join(address, namespace, id)))
	return fmt.Sprintf("/run/containerd/s/%x", sum)
}
