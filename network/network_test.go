package network

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// pod is a namespace with the links eth0 and eth1, whose peers lie in another
// namespace.
type pod struct {
	path    string
	outside string
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip("needs /dev/net/tun")
	}
}

// namespace makes a network namespace that ends with the test.
func namespace(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "netns")
	if err := os.WriteFile(path, nil, 0o400); err != nil {
		t.Fatal(err)
	}
	if err := onThread(func() error { return newNamespace(path) }); err != nil {
		t.Skipf("needs the right to make network namespaces: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return path
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newPod(t testing.TB) pod {
	t.Helper()
	needRoot(t)
	p := pod{namespace(t), namespace(t)}
	outside, err := netns.GetFromPath(p.outside)
	must(t, err)
	defer outside.Close()
	must(t, within(p.path, func(h *netlink.Handle) error {
		for i, name := range []string{"eth0", "eth1"} {
			veth := &netlink.Veth{
				LinkAttrs: netlink.LinkAttrs{Name: name, MTU: 1400}, PeerName: "peer" + name, PeerNamespace: netlink.NsFd(outside),
			}
			if err := h.LinkAdd(veth); err != nil {
				return fmt.Errorf("add %s: %w", name, err)
			}
			link, err := h.LinkByName(name)
			if err != nil {
				return err
			}
			address, _ := netlink.ParseAddr(fmt.Sprintf("10.%d.0.2/24", i))
			if err := h.AddrAdd(link, address); err != nil {
				return err
			}
			if err := h.LinkSetUp(link); err != nil {
				return err
			}
		}
		return nil
	}))
	must(t, within(p.outside, func(h *netlink.Handle) error {
		for _, name := range []string{"peereth0", "peereth1"} {
			link, err := h.LinkByName(name)
			if err != nil {
				return err
			}
			if err := h.LinkSetUp(link); err != nil {
				return err
			}
		}
		return nil
	}))
	return p
}

// state lists what a namespace has: links, qdiscs and filters.
func (p pod) state(t testing.TB) []string {
	t.Helper()
	var all []string
	must(t, within(p.path, func(h *netlink.Handle) error {
		links, err := h.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			all = append(all, l.Attrs().Name)
			qdiscs, err := h.QdiscList(l)
			if err != nil {
				return err
			}
			for _, q := range qdiscs {
				if q.Type() == "ingress" {
					all = append(all, l.Attrs().Name+" ingress")
				}
			}
		}
		return nil
	}))
	slices.Sort(all)
	return all
}

func openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(entries)
}

func TestFramesPassBothWays(t *testing.T) {
	p := newPod(t)
	n, err := Attach(t.Context(), p.path)
	must(t, err)
	defer func() { must(t, n.CloseTaps()) }()

	const etherType = 0x88b5 // for experiments
	var wire int
	must(t, within(p.outside, func(h *netlink.Handle) error {
		peer, bad := h.LinkByName("peereth0")
		if bad != nil {
			return bad
		}
		protocol := uint16(etherType&0xff<<8 | etherType>>8)
		if wire, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(protocol)); err != nil {
			return err
		}
		return unix.Bind(wire, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: peer.Attrs().Index})
	}))
	defer unix.Close(wire)
	must(t, unix.SetsockoptTimeval(wire, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}))

	guest := n.NICs[0].MAC
	other := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	frame := func(to, from net.HardwareAddr, text string) []byte {
		return append(slices.Concat(to, from, []byte{etherType >> 8, etherType & 0xff}), text...)
	}
	toGuest := frame(guest, other, "to the guest, and long enough that nothing has to be padded")
	_, err = unix.Write(wire, toGuest)
	must(t, err)
	must(t, n.NICs[0].Tap.SetReadDeadline(time.Now().Add(10*time.Second)))
	const header = 10 // virtio_net_hdr
	buf := make([]byte, 2048)
	for { // the kernel's own multicast comes through as well
		var k int
		k, err = n.NICs[0].Tap.Read(buf)
		must(t, err)
		if k > header && bytes.Equal(buf[header:k], toGuest) {
			break
		}
	}
	fromGuest := frame(other, guest, "from the guest, and long enough that nothing has to be padded")
	_, err = n.NICs[0].Tap.Write(append(make([]byte, header), fromGuest...))
	must(t, err)
	for {
		var k int
		k, _, err = unix.Recvfrom(wire, buf, 0)
		must(t, err)
		if bytes.Equal(buf[:k], fromGuest) {
			break
		}
	}
}

func TestAttachTellsWhatTheGuestNeeds(t *testing.T) {
	p := newPod(t)
	gatewayMAC := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	must(t, within(p.path, func(h *netlink.Handle) error {
		eth0, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		i := eth0.Attrs().Index
		six, _ := netlink.ParseAddr("fd00::2/64")
		six.Flags = unix.IFA_F_NODAD
		_, far, _ := net.ParseCIDR("192.168.7.0/24")
		if err := h.AddrAdd(eth0, six); err != nil {
			return err
		}
		for _, r := range []*netlink.Route{
			{LinkIndex: i, Gw: net.IPv4(10, 0, 0, 1)},
			{LinkIndex: i, Dst: far, Gw: net.IPv4(169, 254, 1, 1), Flags: unix.RTNH_F_ONLINK, MTU: 1300, Src: net.IPv4(10, 0, 0, 2)},
			{LinkIndex: i, Gw: net.ParseIP("fd00::1")},
		} {
			if err := h.RouteAdd(r); err != nil {
				return fmt.Errorf("add route %v: %w", r, err)
			}
		}
		for _, e := range []*netlink.Neigh{
			{LinkIndex: i, IP: net.IPv4(10, 0, 0, 1), HardwareAddr: gatewayMAC, State: unix.NUD_REACHABLE},
			{LinkIndex: i, IP: net.IPv4(10, 0, 0, 7), HardwareAddr: gatewayMAC, State: unix.NUD_PERMANENT},
			{LinkIndex: i, IP: net.IPv4(10, 0, 0, 8), HardwareAddr: gatewayMAC, State: unix.NUD_REACHABLE},
		} {
			if err := h.NeighAdd(e); err != nil {
				return fmt.Errorf("add neighbour %v: %w", e, err)
			}
		}
		return nil
	}))
	n, err := Attach(t.Context(), p.path)
	must(t, err)
	defer func() { must(t, n.CloseTaps()) }()

	if len(n.NICs) != 2 || len(n.Interfaces) != 2 {
		t.Fatalf("%d NICs, %d interfaces, want 2", len(n.NICs), len(n.Interfaces))
	}
	for i, name := range []string{"eth0", "eth1"} {
		in := n.Interfaces[i]
		if in.Name != name || in.MTU != 1400 || in.Type != "veth" || in.Flags != 0 || !bytes.Equal(in.MAC, n.NICs[i].MAC) {
			t.Errorf("interface %+v", in)
		}
		if want := netip.MustParsePrefix(fmt.Sprintf("10.%d.0.2/24", i)); !slices.Contains(in.Addresses, want) {
			t.Errorf("%s has %v, want %v", name, in.Addresses, want)
		}
	}
	if !slices.Contains(n.Interfaces[0].Addresses, netip.MustParsePrefix("fd00::2/64")) {
		t.Errorf("eth0 has %v, want fd00::2/64", n.Interfaces[0].Addresses)
	}
	for _, want := range []Route{
		{Gateway: netip.MustParseAddr("10.0.0.1"), Device: "eth0"},
		{Dest: netip.MustParsePrefix("192.168.7.0/24"), Gateway: netip.MustParseAddr("169.254.1.1"), Source: netip.MustParseAddr("10.0.0.2"), Device: "eth0", Flags: unix.RTNH_F_ONLINK, MTU: 1300},
		{Gateway: netip.MustParseAddr("fd00::1"), Device: "eth0", IPv6: true},
	} {
		if !slices.Contains(n.Routes, want) {
			t.Errorf("no route %+v in %+v", want, n.Routes)
		}
	}
	if len(n.Routes) != 3 {
		t.Errorf("routes %+v, want 3", n.Routes)
	}
	var neighbors []string
	for _, e := range n.Neighbors {
		neighbors = append(neighbors, e.IP.String()+" "+e.MAC.String()+" "+e.Device)
	}
	slices.Sort(neighbors)
	if want := []string{"10.0.0.1 02:00:00:00:00:01 eth0", "10.0.0.7 02:00:00:00:00:01 eth0"}; !slices.Equal(neighbors, want) {
		t.Errorf("neighbours %q, want %q", neighbors, want)
	}
}

func TestNothingIsLeft(t *testing.T) {
	p := newPod(t)
	before, files := p.state(t), openFiles(t)
	check := func(what string) {
		t.Helper()
		if after := p.state(t); !slices.Equal(after, before) {
			t.Errorf("%s: %q, before %q", what, after, before)
		}
		if n := openFiles(t); n != files {
			t.Errorf("%s: %d open files, before %d", what, n, files)
		}
	}
	attach := func() *Network {
		t.Helper()
		n, err := Attach(t.Context(), p.path)
		must(t, err)
		return n
	}
	n := attach()
	if _, err := Attach(t.Context(), p.path); err == nil {
		t.Error("a second Attach succeeded")
	}
	must(t, Detach(t.Context(), p.path)) // while the taps are open
	must(t, n.CloseTaps())
	must(t, n.CloseTaps())
	check("detached")

	must(t, attach().CloseTaps()) // as if the VMM had died: filters lead nowhere
	must(t, Detach(t.Context(), p.path))
	must(t, Detach(t.Context(), p.path))
	check("detached after the taps were gone")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	must(t, within(p.path, func(h *netlink.Handle) error {
		link, err := h.LinkByName("eth1")
		if err != nil {
			return err
		}
		return addIngress(ctx, h, link) // someone else's
	}))
	if _, err := Attach(t.Context(), p.path); !errdefs.IsAlreadyExists(err) || !strings.Contains(err.Error(), "eth1") {
		t.Errorf("Attach: %v, want already exists, of eth1", err)
	}
	must(t, Detach(t.Context(), p.path))
	if after := p.state(t); !slices.Contains(after, "eth1 ingress") || slices.Contains(after, "eth0 ingress") {
		t.Errorf("%q: want what another made, and no more", after)
	}
}

func TestHostNamespaceIsRefused(t *testing.T) {
	needRoot(t)
	if _, err := Attach(t.Context(), "/proc/self/ns/net"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("Attach: %v, want an invalid argument", err)
	}
	if err := Detach(t.Context(), "/proc/self/ns/net"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("Detach: %v, want an invalid argument", err)
	}
}

func TestNoNamespace(t *testing.T) {
	needRoot(t)
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	for _, path := range []string{file, file + "x"} {
		if _, err := Attach(t.Context(), path); !errdefs.IsNotFound(err) {
			t.Errorf("Attach %s: %v, want not found", path, err)
		}
		must(t, Detach(t.Context(), path))
	}
}

func TestCreateAndDelete(t *testing.T) {
	needRoot(t)
	id := fmt.Sprintf("network-test-%d", os.Getpid())
	path, err := Create(id)
	must(t, err)
	defer func() { must(t, Delete(path)) }()
	if path != Path(id) || !strings.HasPrefix(path, "/var/run/netns/cnitest-") {
		t.Errorf("path %s", path)
	}
	if _, err = Create(id); !errdefs.IsAlreadyExists(err) {
		t.Errorf("second Create: %v, want already exists", err)
	}
	n, err := Attach(t.Context(), path)
	if err != nil || len(n.NICs) != 0 {
		t.Errorf("Attach: %v, %+v, want no NICs", err, n)
	}
	must(t, Delete(path))
	must(t, Delete(path))
	if _, err = os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("%s: %v, want it gone", path, err)
	}
	if err = Delete("/var/run/netns/cni-of-another"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("Delete of another's: %v, want an invalid argument", err)
	}
}

func BenchmarkAttach(b *testing.B) {
	p := newPod(b)
	for b.Loop() {
		n, err := Attach(b.Context(), p.path)
		b.StopTimer()
		must(b, err)
		must(b, n.CloseTaps())
		must(b, Detach(b.Context(), p.path))
		b.StartTimer()
	}
}
