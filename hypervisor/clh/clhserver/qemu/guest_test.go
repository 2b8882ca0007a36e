package qemu

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"
	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver"
)

// guestFiles finds the kernel and the ramdisk that `make guest` built, or skips
// the test.
func guestFiles(t testing.TB) (kernel, initrd string) {
	t.Helper()
	dir := os.Getenv("KATA_CC_GUEST_DIR")
	if dir == "" {
		root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
		if err != nil {
			t.Fatalf("find the module's directory: %v", err)
		}
		dir = filepath.Join(strings.TrimSpace(string(root)), ".cache", "guest")
	}
	kernel, initrd = filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "initrd.img")
	for _, path := range []string{kernel, initrd} {
		if _, err := os.Stat(path); err != nil {
			t.Skipf("needs the guest's %s: %v (KATA_CC_GUEST_DIR says where)", filepath.Base(path), err)
		}
	}
	return kernel, initrd
}

// programs finds what a machine is made with, or skips the test.
func programs(t testing.TB) Options {
	t.Helper()
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Skipf("needs QEMU: %v", err)
	}
	return Options{QEMU: qemu}
}

var testInitrd = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "testguest")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	build := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, "testguest"), "./testguest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build testguest: %w: %s", err, out)
	}
	program, err := os.ReadFile(filepath.Join(dir, "testguest"))
	if err != nil {
		return nil, err
	}
	var archive bytes.Buffer
	w := cpio.NewWriter(&archive)
	if err := w.WriteHeader(&cpio.Header{Name: "testguest", Mode: cpio.TypeReg | 0o755, Size: int64(len(program))}); err != nil {
		return nil, err
	}
	if _, err := w.Write(program); err != nil {
		return nil, err
	}
	err = w.Close()
	return archive.Bytes(), err
})

// withTestGuest appends the program of ./testguest to the ramdisk: the kernel
// unpacks one archive after the other.
func withTestGuest(t testing.TB, initrd string) string {
	t.Helper()
	archive, err := testInitrd()
	if err != nil {
		t.Fatal(err)
	}
	base, err := os.ReadFile(initrd)
	if err != nil {
		t.Fatal(err)
	}
	for len(base)%4 != 0 {
		base = append(base, 0)
	}
	path := filepath.Join(t.TempDir(), "initrd.img")
	if err := os.WriteFile(path, append(base, archive...), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// log records events and lets a test wait for one.
type log struct {
	mu     sync.Mutex
	events []string
	news   chan struct{}
}

func newLog() *log { return &log{news: make(chan struct{}, 1)} }

func (l *log) add(format string, args ...any) {
	l.mu.Lock()
	l.events = append(l.events, fmt.Sprintf(format, args...))
	l.mu.Unlock()
	select {
	case l.news <- struct{}{}:
	default:
	}
}

func (l *log) Activated(id string)     { l.add("activated %s", id) }
func (l *log) DeviceRemoved(id string) { l.add("removed %s", id) }
func (l *log) PoweredOff()             { l.add("powered off") }
func (l *log) Rebooted()               { l.add("rebooted") }
func (l *log) Panicked()               { l.add("panicked") }
func (l *log) Died(err error)          { l.add("died: %v", err) }

func (l *log) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.events...)
}

// filtered gives the events that are among some.
func (l *log) filtered(some ...string) []string {
	return slices.DeleteFunc(l.all(), func(e string) bool { return !slices.Contains(some, e) })
}

// wait waits for an event that starts with prefix.
func (l *log) wait(t testing.TB, prefix string) {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		for _, e := range l.all() {
			if strings.HasPrefix(e, prefix) {
				return
			}
		}
		select {
		case <-l.news:
		case <-deadline:
			t.Fatalf("no event %q, but %q", prefix, l.all())
		}
	}
}

// guest is a booted machine with the test's program in it.
type guest struct {
	t       testing.TB
	backend *Backend
	log     *log
	console *output
	socket  string
}

// output collects what a console prints.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func at(device uint8) hypervisor.BDF { return hypervisor.BDF{Device: device} }

// bootGuest boots a machine; change may alter it first.
func bootGuest(t testing.TB, change func(*clhserver.Machine)) *guest {
	t.Helper()
	kernel, initrd := guestFiles(t)
	g := &guest{t: t, log: newLog(), console: new(output)}
	backend, err := New(programs(t), g.log)
	if err != nil {
		t.Fatal(err)
	}
	g.backend = backend
	t.Cleanup(func() {
		if err := backend.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if t.Failed() {
			t.Logf("events %q, console:\n%s", g.log.all(), g.console)
		}
	})
	g.socket = filepath.Join(t.TempDir(), "clh.sock")
	m := clhserver.Machine{
		VCPUs: 1, Memory: 1 << 30, Kernel: kernel, Initramfs: withTestGuest(t, initrd),
		Cmdline: "panic=1 no_timer_check noreplace-smp quiet console=ttyS0 rdinit=/testguest",
		Serial:  clhserver.Console{Out: g.console},
		RNG:     &clhserver.RNG{Source: "/dev/urandom", At: at(2)},
		Vsock:   &clhserver.Vsock{ID: "_vsock0", CID: 3, Socket: g.socket, At: at(3)},
	}
	if change != nil {
		change(&m)
	}
	if err := backend.Boot(t.Context(), m); err != nil {
		t.Fatalf("boot: %v", err)
	}
	return g
}

// dial connects to the guest's program, as soon as it listens.
func (g *guest) dial() net.Conn {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), time.Minute)
	defer cancel()
	for {
		conn, err := dialVsock(ctx, g.socket, 1024)
		if err == nil {
			return conn
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			g.t.Fatalf("dial the guest: %v; console:\n%s", err, g.console)
		}
	}
}

func dialVsock(ctx context.Context, socket string, port int) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(time.Second))
	line := make([]byte, 0, 32)
	if _, err = fmt.Fprintf(conn, "CONNECT %d\n", port); err == nil {
		for b := make([]byte, 1); err == nil && !bytes.HasSuffix(line, []byte("\n")); {
			if _, err = io.ReadFull(conn, b); err == nil {
				line = append(line, b...)
			}
		}
	}
	if err == nil && !bytes.HasPrefix(line, []byte("OK ")) {
		err = fmt.Errorf("answer %q to CONNECT", line)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, conn.SetDeadline(time.Time{})
}

// say sends one command and gives the lines of its answer.
func (g *guest) say(conn net.Conn, format string, args ...any) []string {
	g.t.Helper()
	if _, err := fmt.Fprintf(conn, format+"\n", args...); err != nil {
		g.t.Fatalf("command to the guest: %v", err)
	}
	var lines []string
	for r := bufio.NewReader(conn); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			g.t.Fatalf("answer to "+format+": %v", append(args, err)...)
		}
		if line = strings.TrimSpace(line); line == "" {
			return lines
		}
		lines = append(lines, line)
	}
}

// waitFor asks the guest until the answer is the wanted one.
func (g *guest) waitFor(conn net.Conn, command string, want []string) {
	g.t.Helper()
	var got []string
	for range 600 {
		if got = g.say(conn, "%s", command); fmt.Sprint(got) == fmt.Sprint(want) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	g.t.Fatalf("%s: the guest says\n%s\nwant\n%s", command, strings.Join(got, "\n"), strings.Join(want, "\n"))
}
