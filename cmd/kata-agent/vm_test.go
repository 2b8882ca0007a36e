package main

import (
	"archive/tar"
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/guest/image"
	"github.com/kata-cc/kata-cc/guest/image/cpio"
	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/hypervisor/clh"
	"github.com/kata-cc/kata-cc/tardev"
)

// bootTimeout bounds a boot without KVM on a busy machine.
const bootTimeout = time.Minute

// machine is a virtual machine with the guest image and this package's agent as
// its init.
type machine struct {
	*agent
	vm    hypervisor.VM
	ended chan struct{}
}

// findVMM finds a program with Cloud Hypervisor's API: ours, which needs no KVM.
func findVMM(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../../bin/clh-qemu")
	if err != nil {
		t.Fatal(err)
	}
	if !exists(path) {
		t.Skip("needs bin/clh-qemu (make build)")
	}
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("needs qemu-system-x86_64")
	}
	return path
}

// bootVM boots a guest whose kernel command line ends in words.
func bootVM(t *testing.T, words string) *machine {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	vmm := findVMM(t)
	guest, err := filepath.Abs("../../.cache/guest")
	if err != nil {
		t.Fatal(err)
	}
	kernel := filepath.Join(guest, image.KernelFile)
	if !exists(kernel) || !exists(filepath.Join(guest, image.DebugDir, image.InitrdFile)) {
		t.Skip("needs the guest image in .cache/guest (make guest)")
	}
	dir, err := os.MkdirTemp("", "kata-agent-vm-") // a short path: it holds sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	m := &machine{agent: &agent{t: t}, ended: make(chan struct{})}
	m.vm, err = clh.New(clh.Options{Path: vmm, Dir: dir, BootTimeout: bootTimeout}).Launch(m.ctx(), hypervisor.Spec{
		ID: "vm", VCPUs: 1, MemoryMiB: 256, Kernel: kernel, Initrd: m.initrd(dir, filepath.Join(guest, image.DebugDir, image.InitrdFile)), KernelParams: words,
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = m.vm.Wait(context.Background())
		close(m.ended)
	}()
	t.Cleanup(func() {
		if t.Failed() || testing.Verbose() {
			t.Logf("console of the guest:\n%s", m.vm.Console())
		}
		if err := m.vm.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := m.vm.Boot(m.ctx()); err != nil {
		t.Fatal(err)
	}
	m.conn = ttrpc.NewClient(m.dial(1024))
	t.Cleanup(func() { m.conn.Close() })
	m.AgentServiceService = agentpb.NewAgentServiceClient(m.conn)
	m.health = agentpb.NewHealthClient(m.conn)
	return m
}

// initrd is the image's ramdisk with this package's agent in the place of its
// init: of two entries of one name the kernel takes the later.
func (m *machine) initrd(dir, path string) string {
	m.t.Helper()
	agent := filepath.Join(dir, "init")
	build := exec.Command("go", "build", "-tags", image.DebugTag, "-ldflags", "-s -w", "-o", agent, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		m.t.Fatalf("build the agent: %v: %s", err, out)
	}
	base, err := os.ReadFile(path)
	if err != nil {
		m.t.Fatal(err)
	}
	program, err := os.ReadFile(agent)
	if err != nil {
		m.t.Fatal(err)
	}
	var overlay bytes.Buffer
	if err := cpio.Write(&overlay, []cpio.Entry{{Path: "init", Mode: 0o755, Data: program}}, time.Unix(0, 0)); err != nil {
		m.t.Fatal(err)
	}
	out := filepath.Join(dir, "initrd.img")
	if err := os.WriteFile(out, append(base, overlay.Bytes()...), 0o644); err != nil {
		m.t.Fatal(err)
	}
	return out
}

// dial connects to a port of the guest, once something listens there.
func (m *machine) dial(port uint32) net.Conn {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), bootTimeout)
	defer cancel()
	for {
		conn, err := m.vm.Dial(ctx, port)
		if err == nil {
			return conn
		}
		select {
		case <-m.ended:
			m.t.Fatalf("the machine ended while it booted: %v", err)
		case <-ctx.Done():
			m.t.Fatalf("nothing listens on port %d of the guest: %v", port, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// plug hot-plugs a file as a read-only disk and returns its address.
func (m *machine) plug(path, id string) string {
	m.t.Helper()
	at, err := m.vm.HotplugDisk(m.ctx(), hypervisor.Disk{ID: id, Path: path, ReadOnly: true})
	if err != nil {
		m.t.Fatal(err)
	}
	return at.String()
}

// layer is a layer file on the host.
type layer struct{ path, id, rootHash string }

// storage is how a shim asks for the layer on the disk at source.
func (l layer) storage(source string) *agentpb.Storage {
	return &agentpb.Storage{
		Driver: "blk", Source: source, Fstype: "tar", MountPoint: "/run/kata-containers/sandbox/layers/" + l.id,
		Options: []string{"ro", "io.katacontainers.fs-opt.block_device=file", "io.katacontainers.fs-opt.is-layer", "io.katacontainers.fs-opt.root-hash=" + l.rootHash},
	}
}

// overlay is how a shim asks for the stack of layers, top first.
func overlay(id string, layers ...layer) *agentpb.Storage {
	var names []string
	options := []string{"io.katacontainers.fs-opt.layer-src-prefix=/layers"}
	for _, l := range layers {
		names = append(names, l.id)
		options = append(options, "io.katacontainers.fs-opt.layer=x")
	}
	return &agentpb.Storage{
		Driver: "overlayfs", Source: "none", Fstype: "fuse3.kata-overlay", MountPoint: "/run/kata-containers/shared/containers/" + id,
		Options: append(options, "io.katacontainers.fs-opt.overlay-rw", "lowerdir="+strings.Join(names, ":")),
	}
}

// makeLayer writes a layer file with the given regular files; a name that ends
// in a slash is a directory, a text that begins with "->" a symbolic link.
func makeLayer(t *testing.T, id string, files ...[2]string) layer {
	t.Helper()
	var blob bytes.Buffer
	w := tar.NewWriter(&blob)
	for _, f := range files {
		h := &tar.Header{Name: f[0], Mode: 0o755, Size: int64(len(f[1])), Typeflag: tar.TypeReg}
		target, isLink := strings.CutPrefix(f[1], "->")
		switch {
		case strings.HasSuffix(f[0], "/"):
			h.Typeflag, h.Size = tar.TypeDir, 0
		case isLink:
			h.Typeflag, h.Size, h.Linkname = tar.TypeSymlink, 0, target
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write([]byte(f[1])); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), id)
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	l, err := tardev.Build(context.Background(), out, &blob, tardev.BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return layer{path: path, id: id, rootHash: l.RootHash}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
