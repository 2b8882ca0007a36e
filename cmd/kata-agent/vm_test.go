package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
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
	"github.com/kata-cc/kata-cc/tardev"
)

// bootTimeout bounds a boot without KVM on a busy machine.
const bootTimeout = time.Minute

// machine is a virtual machine with the guest image and this package's agent as
// its init.
type machine struct {
	*agent
	dir   string
	qemu  *exec.Cmd
	qmp   net.Conn
	reply *bufio.Reader
	ended chan struct{}
}

// findVsockDevice finds the host's half of hybrid vsock.
func findVsockDevice(t *testing.T) string {
	t.Helper()
	for _, dir := range append([]string{"../../bin", "../../.cache/bin"}, filepath.SplitList(os.Getenv("PATH"))...) {
		path := filepath.Join(dir, "vhost-device-vsock")
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	t.Skip("needs vhost-device-vsock beside our binaries or in PATH")
	return ""
}

// bootVM boots a guest whose kernel command line ends in words.
func bootVM(t *testing.T, words string) *machine {
	t.Helper()
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skip("needs qemu-system-x86_64")
	}
	vsockDevice := findVsockDevice(t)
	const guest = "../../.cache/guest"
	kernel := filepath.Join(guest, image.KernelFile)
	if _, err := os.Stat(kernel); err != nil {
		t.Skip("needs the guest image in .cache/guest (make guest)")
	}
	dir := t.TempDir()
	m := &machine{dir: dir, ended: make(chan struct{})}
	m.agent = &agent{t: t, socket: filepath.Join(dir, "vsock.sock")}

	vhost := exec.Command(vsockDevice, "--vm", fmt.Sprintf("guest-cid=3,uds-path=%s,socket=%s/vhost.sock", m.socket, dir))
	if err := vhost.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = vhost.Process.Kill()
		_ = vhost.Wait()
	})
	waitFor(t, func() bool { return exists(dir + "/vhost.sock") })
	m.qemu = exec.Command(qemu, "-M", "pc", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", "256M",
		"-object", "memory-backend-memfd,id=mem,size=256M,share=on", "-numa", "node,memdev=mem",
		"-nodefaults", "-display", "none", "-no-user-config", "-no-reboot",
		"-kernel", kernel, "-initrd", m.initrd(filepath.Join(guest, image.InitrdFile)),
		"-append", "panic=1 no_timer_check noreplace-smp quiet console=ttyS0 "+words,
		"-serial", "file:"+dir+"/console.log", "-qmp", "unix:"+dir+"/qmp.sock,server=on,wait=off",
		"-chardev", "socket,id=vs,path="+dir+"/vhost.sock", "-device", "vhost-user-vsock-pci,chardev=vs",
		"-netdev", "user,id=n,restrict=on", "-device", "virtio-net-pci,netdev=n,mac=52:54:00:12:34:56")
	var stderr bytes.Buffer
	m.qemu.Stderr = &stderr
	if err := m.qemu.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = m.qemu.Wait()
		close(m.ended)
	}()
	t.Cleanup(func() {
		_ = m.qemu.Process.Kill()
		<-m.ended
		if t.Failed() {
			console, _ := os.ReadFile(dir + "/console.log")
			t.Logf("console of the guest:\n%s%s", console, &stderr)
		}
	})
	m.connectQMP()
	// vhost-device-vsock sometimes loses every packet for the guest after a
	// connection from before the guest's driver.
	waitFor(t, func() bool {
		console, _ := os.ReadFile(dir + "/console.log")
		return bytes.Contains(console, []byte("agent is ready"))
	})
	m.conn = m.client(1024)
	t.Cleanup(func() { m.conn.Close() })
	m.AgentServiceService = agentpb.NewAgentServiceClient(m.conn)
	m.health = agentpb.NewHealthClient(m.conn)
	return m
}

// initrd is the image's ramdisk with this package's agent in the place of its
// init: of two entries of one name the kernel takes the later.
func (m *machine) initrd(path string) string {
	m.t.Helper()
	agent, err := binary()
	if err != nil {
		m.t.Fatal(err)
	}
	built = true
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
	out := filepath.Join(m.dir, "initrd.img")
	if err := os.WriteFile(out, append(base, overlay.Bytes()...), 0o644); err != nil {
		m.t.Fatal(err)
	}
	return out
}

// dial connects to a port of the guest, once something listens there.
func (m *machine) dial(port int) (net.Conn, *bufio.Reader) {
	m.t.Helper()
	deadline := time.Now().Add(bootTimeout)
	for time.Now().Before(deadline) {
		conn, err := net.Dial("unix", m.socket)
		if err != nil {
			m.t.Fatal(err)
		}
		fmt.Fprintf(conn, "CONNECT %d\n", port)
		_ = conn.SetReadDeadline(time.Now().Add(time.Second))
		r := bufio.NewReader(conn)
		line, err := r.ReadString('\n')
		if err == nil && strings.HasPrefix(line, "OK") {
			_ = conn.SetReadDeadline(time.Time{})
			return conn, r
		}
		conn.Close()
		select {
		case <-m.ended:
			m.t.Fatal("the machine ended while it booted")
		case <-time.After(20 * time.Millisecond):
		}
	}
	m.t.Fatalf("nothing listens on port %d of the guest", port)
	return nil, nil
}

func (m *machine) client(port int) *ttrpc.Client {
	m.t.Helper()
	conn, _ := m.dial(port)
	return ttrpc.NewClient(conn)
}

func (m *machine) connectQMP() {
	m.t.Helper()
	var conn net.Conn
	waitFor(m.t, func() (ok bool) {
		var err error
		conn, err = net.Dial("unix", m.dir+"/qmp.sock")
		return err == nil
	})
	m.t.Cleanup(func() { conn.Close() })
	m.qmp, m.reply = conn, bufio.NewReader(conn)
	m.command("qmp_capabilities", nil)
}

// command runs a command of QEMU's.
func (m *machine) command(name string, arguments any) {
	m.t.Helper()
	message := map[string]any{"execute": name}
	if arguments != nil {
		message["arguments"] = arguments
	}
	if err := json.NewEncoder(m.qmp).Encode(message); err != nil {
		m.t.Fatal(err)
	}
	for {
		line, err := m.reply.ReadBytes('\n')
		if err != nil {
			m.t.Fatal(err)
		}
		var answer struct{ Return, Error json.RawMessage }
		if err := json.Unmarshal(line, &answer); err != nil {
			m.t.Fatal(err)
		}
		if answer.Error != nil {
			m.t.Fatalf("%s: %s", name, answer.Error)
		}
		if answer.Return != nil {
			return
		}
	}
}

// plug hot-plugs a file as a read-only disk into a slot and returns its address.
func (m *machine) plug(path string, slot int) string {
	m.t.Helper()
	id := fmt.Sprintf("disk%d", slot)
	m.command("blockdev-add", map[string]any{"driver": "raw", "node-name": id, "read-only": true, "file": map[string]any{"driver": "file", "filename": path}})
	m.command("device_add", map[string]any{"driver": "virtio-blk-pci", "id": id, "drive": id, "addr": fmt.Sprintf("%#x", slot)})
	return fmt.Sprintf("0000:00:%02x.0", slot)
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

func waitFor(t *testing.T, what func() bool) {
	t.Helper()
	deadline := time.Now().Add(callTimeout)
	for !what() {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain")
		}
		time.Sleep(5 * time.Millisecond)
	}
}
