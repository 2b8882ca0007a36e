package qemu

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver"
)

// ownNetwork puts the test on a thread with a network namespace of its own; the
// thread ends with the test.
func ownNetwork(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root for a network namespace")
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("needs a network namespace: %v", err)
	}
}

// newTap makes a tap with an address on the host's side.
func newTap(t *testing.T, name, address string) *os.File {
	t.Helper()
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Skipf("needs taps: %v", err)
	}
	t.Cleanup(func() { f.Close() })
	request, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(int(f.Fd()), unix.TUNSETIFF, request); err != nil {
		t.Fatalf("make tap %s: %v", name, err)
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	addr, err := netlink.ParseAddr(address)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrAdd(link, addr); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		t.Fatal(err)
	}
	return f
}

// exchange sends datagrams to the guest's echo port until one comes back.
func exchange(t *testing.T, address string) {
	t.Helper()
	conn, err := net.Dial("udp4", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	sent, got := make([]byte, 1400), make([]byte, 2000)
	rand.Read(sent)
	for range 50 {
		conn.SetDeadline(time.Now().Add(200 * time.Millisecond))
		if _, err = conn.Write(sent); err != nil {
			continue
		}
		var n int
		if n, err = conn.Read(got); err == nil && bytes.Equal(got[:n], sent) {
			return
		}
	}
	t.Fatalf("nothing came back from %s: %v", address, err)
}

func TestNetworkCards(t *testing.T) {
	ownNetwork(t)
	macs := []net.HardwareAddr{{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}}
	cold, hot := newTap(t, "cold", "10.98.0.1/24"), newTap(t, "hot", "10.99.0.1/24")
	g := bootGuest(t, func(m *clhserver.Machine) {
		m.Nets = []clhserver.Net{{ID: "_net0", MAC: macs[0], Taps: []*os.File{cold}, At: at(4)}}
	})
	if err := cold.Close(); err == nil {
		t.Error("the tap was left open by Boot")
	}
	conn := g.dial()
	defer conn.Close()
	if err := g.backend.AddNet(t.Context(), clhserver.Net{ID: "eth1", MAC: macs[1], Taps: []*os.File{hot}, At: at(9)}); err != nil {
		t.Fatal(err)
	}
	if err := hot.Close(); err == nil {
		t.Error("the tap was left open by AddNet")
	}
	g.log.wait(t, "activated eth1")
	for i, slot := range []string{"04", "09"} {
		var name string
		for range 100 {
			for _, line := range g.say(conn, "net") {
				dir, mac, _ := strings.Cut(line, " ")
				if mac == macs[i].String() && strings.Contains(dir, "/0000:00:"+slot+".0/") {
					name = dir[strings.LastIndex(dir, "/")+1:]
				}
			}
			if name != "" {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		if name == "" {
			t.Fatalf("no card %s at slot %s, but %q", macs[i], slot, g.say(conn, "net"))
		}
		if answer := g.say(conn, "addr %s 10.%d.0.2/24", name, 98+i); answer != nil {
			t.Fatalf("set the address of %s: %s", name, answer)
		}
		exchange(t, fmt.Sprintf("10.%d.0.2:7", 98+i))
	}
	if err := g.backend.RemoveDevice(t.Context(), "eth1"); err != nil {
		t.Fatal(err)
	}
	g.log.wait(t, "removed eth1")
	if _, err := netlink.LinkByName("hot"); err == nil {
		t.Error("the tap is still held after its card was removed")
	}
	exchange(t, "10.98.0.2:7")
	if events := g.log.all(); slices.ContainsFunc(events, func(e string) bool { return strings.HasPrefix(e, "died") }) {
		t.Errorf("events %q", events)
	}
}
