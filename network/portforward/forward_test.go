package portforward

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/network"
)

// pod is a namespace with nothing but loopback, whose localhost leads to the
// localhost of the test, in the role of the pod's address.
func pod(t *testing.T) (*Forwarder, string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	path, err := network.Create(fmt.Sprintf("portforward-%d", os.Getpid()))
	if err != nil {
		t.Skipf("needs the right to make network namespaces: %v", err)
	}
	t.Cleanup(func() {
		if err := network.Delete(path); err != nil {
			t.Error(err)
		}
	})
	if err := network.In(path, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	}); err != nil {
		t.Fatal(err)
	}
	f, err := Start(path, []netip.Addr{netip.MustParseAddr("127.0.0.1")})
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
		t.Skipf("needs the right to load programs into the kernel: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f, path
}

// dial connects from within the namespace.
func dial(t *testing.T, path, address string) (*net.TCPConn, error) {
	t.Helper()
	var conn net.Conn
	err := network.In(path, func() (err error) {
		conn, err = net.Dial("tcp", address)
		return err
	})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { conn.Close() })
	return conn.(*net.TCPConn), nil
}

// serve runs a server that answers what it got when that has ended, and returns
// its port.
func serve(t *testing.T) string {
	t.Helper()
	return serveAt(t, "127.0.0.1:0", "got ")
}

func serveAt(t *testing.T, address, says string) string {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				text, _ := io.ReadAll(conn)
				conn.Write(append([]byte(says), text...))
			}()
		}
	}()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

func TestLocalhostLeadsToThePod(t *testing.T) {
	_, path := pod(t)
	port := serve(t)
	text := bytes.Repeat([]byte("0123456789abcdef"), 64<<10) // 1 MiB
	for _, host := range []string{"127.0.0.1", "localhost", "::1"} {
		conn, err := dial(t, path, net.JoinHostPort(host, port))
		if err != nil {
			t.Fatalf("dial %s: %v", host, err)
		}
		if _, err := conn.Write(text); err != nil {
			t.Fatal(err)
		}
		conn.CloseWrite()
		if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, append([]byte("got "), text...)) {
			t.Errorf("through %s came %d bytes, %v", host, len(got), err)
		}
	}
}

// A pod's addresses may change, and all may go for a while.
func TestOtherTargets(t *testing.T) {
	f, path := pod(t)
	port := serve(t)
	serveAt(t, "127.0.0.2:"+port, "here ")
	for _, step := range []struct {
		targets []string // nil: as at the start
		want    string   // "": a reset
	}{{nil, "got x"}, {[]string{"127.0.0.2"}, "here x"}, {[]string{}, ""}, {[]string{"127.0.0.3", "127.0.0.1"}, "got x"}} {
		if step.targets != nil {
			var targets []netip.Addr
			for _, text := range step.targets {
				targets = append(targets, netip.MustParseAddr(text))
			}
			f.SetTargets(targets)
		}
		conn, err := dial(t, path, "127.0.0.1:"+port)
		if err != nil && step.want == "" {
			continue // refused at once is as good
		}
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write([]byte("x")) // may be reset by now
		_ = conn.CloseWrite()
		got, err := io.ReadAll(conn)
		if string(got) != step.want || (err == nil) != (step.want != "") {
			t.Errorf("towards %v came %q, %v; want %q", step.targets, got, err, step.want)
		}
	}
}

func TestPortWithoutServerIsAReset(t *testing.T) {
	_, path := pod(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	conn, err := dial(t, path, address)
	if err != nil {
		return // refused at once is as good
	}
	if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("read %d bytes, %v; want a reset", n, err)
	}
}

func TestCloseEndsConnectionsAndSteering(t *testing.T) {
	f, path := pod(t)
	port := serve(t)
	conn, err := dial(t, path, "127.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1)); err == nil {
		t.Errorf("an open connection gave %d bytes after Close", n)
	}
	if _, err := dial(t, path, "127.0.0.1:"+port); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("dial after Close: %v, want refused", err)
	}
	if err := f.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestNamespaceThatIsGone(t *testing.T) {
	if _, err := Start("/no/such/netns", nil); err == nil || !strings.Contains(err.Error(), "/no/such/netns") {
		t.Errorf("start: %v", err)
	}
}
