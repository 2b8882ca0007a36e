package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// in runs do with each of the named links of a namespace.
func in(t testing.TB, path string, do func(h *netlink.Handle, link netlink.Link) error, names ...string) {
	t.Helper()
	must(t, within(path, func(h *netlink.Handle) error {
		for _, name := range names {
			link, err := h.LinkByName(name)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if err := do(h, link); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	}))
}

// addLink adds a link with an address, as a CNI plugin does at any time.
func (p pod) addLink(t testing.TB, name, address string) {
	t.Helper()
	outside, err := netns.GetFromPath(p.outside)
	must(t, err)
	defer outside.Close()
	must(t, within(p.path, func(h *netlink.Handle) error {
		return h.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "far" + name, PeerNamespace: netlink.NsFd(outside)})
	}))
	in(t, p.path, func(h *netlink.Handle, link netlink.Link) error {
		a, err := netlink.ParseAddr(address)
		return errors.Join(err, h.AddrAdd(link, a), h.LinkSetUp(link))
	}, name)
}

func (p pod) deleteLink(t testing.TB, name string) {
	t.Helper()
	in(t, p.path, func(h *netlink.Handle, link netlink.Link) error { return h.LinkDel(link) }, name)
}

// text shows a change in a line.
func (c Change) text() string {
	var parts []string
	for _, nic := range c.Added {
		parts = append(parts, "+"+nic.ID)
	}
	for _, id := range c.Removed {
		parts = append(parts, "-"+id)
	}
	for _, i := range c.Interfaces {
		parts = append(parts, i.Name)
		for _, a := range i.Addresses {
			if !a.Addr().Is6() {
				parts = append(parts, a.String())
			}
		}
	}
	if c.Routes {
		parts = append(parts, "routes")
	}
	return strings.Join(parts, " ")
}

func TestUpdate(t *testing.T) {
	p := newPod(t)
	files := openFiles(t)
	before := p.state(t)
	n, err := Attach(t.Context(), p.path)
	must(t, err)
	update := func(want string) {
		t.Helper()
		c, err := n.Update(t.Context(), p.path)
		must(t, err)
		if got := c.text(); got != want {
			t.Errorf("change %q, want %q", got, want)
		}
		if c.Empty() != (want == "") {
			t.Errorf("change %q is empty: %v", want, c.Empty())
		}
		must(t, n.CloseTaps())
	}
	far := &netlink.Route{Dst: &netIPNet, Gw: netip.MustParseAddr("10.0.0.9").AsSlice()}
	address, _ := netlink.ParseAddr("10.0.0.3/24")

	update("")
	p.addLink(t, "abc", "10.7.0.2/24") // sorts before the others, and is the last all the same
	update("+net2 abc 10.7.0.2/24 routes")
	update("")
	in(t, p.path, func(h *netlink.Handle, link netlink.Link) error { return h.AddrAdd(link, address) }, "eth0")
	update("eth0 10.0.0.2/24 10.0.0.3/24 routes")
	in(t, p.path, func(h *netlink.Handle, link netlink.Link) error {
		far.LinkIndex = link.Attrs().Index
		return h.RouteAdd(far)
	}, "eth0")
	update("routes")
	in(t, p.path, func(h *netlink.Handle, link netlink.Link) error { return h.LinkSetMTU(link, 1300) }, "eth1")
	update("eth1 10.1.0.2/24 routes")
	p.deleteLink(t, "abc")
	update("-net2")
	p.deleteLink(t, "eth1")
	p.addLink(t, "eth1", "10.8.0.2/24") // another one of the same name
	update("+net3 -net1 eth1 10.8.0.2/24 routes")
	in(t, p.path, func(h *netlink.Handle, link netlink.Link) error {
		a, err := netlink.ParseAddr("10.8.0.2/24")
		return errors.Join(err, h.AddrDel(link, a))
	}, "eth1")
	update("eth1 routes")
	if len(n.NICs) != 2 || n.NICs[0].ID != "net0" || n.NICs[1].ID != "net3" {
		t.Errorf("NICs %v", n.NICs)
	}

	must(t, Detach(t.Context(), p.path))
	p.deleteLink(t, "eth1")
	if got := p.state(t); !slices.Equal(got, slices.DeleteFunc(before, func(s string) bool { return s == "eth1" })) {
		t.Errorf("left %v, there was %v", got, before)
	}
	if got := openFiles(t); got != files {
		t.Errorf("%d open files, there were %d", got, files)
	}
}

var netIPNet = *netlink.NewIPNet(netip.MustParseAddr("192.168.9.9").AsSlice())

// What the machine does not take is as if it had never been looked at.
func TestForget(t *testing.T) {
	p := newPod(t)
	files := openFiles(t)
	n, err := Attach(t.Context(), p.path)
	must(t, err)
	before := p.state(t)
	p.addLink(t, "extra", "10.7.0.2/24")
	for _, want := range []string{"+net2 extra 10.7.0.2/24 routes", "+net3 extra 10.7.0.2/24 routes"} {
		c, err := n.Update(t.Context(), p.path)
		must(t, err)
		if got := c.text(); got != want {
			t.Errorf("change %q, want %q", got, want)
		}
		must(t, n.Forget(p.path, c.Added[0].ID))
		if got := slices.DeleteFunc(p.state(t), func(s string) bool { return s == "extra" }); !slices.Equal(got, before) {
			t.Errorf("left %v, there was %v", got, before)
		}
	}
	must(t, n.CloseTaps())
	must(t, Detach(t.Context(), p.path))
	if got := openFiles(t); got != files {
		t.Errorf("%d open files, there were %d", got, files)
	}
}

// A link that cannot be joined costs those that can nothing, whether they came
// before it or come after, and is joined once it can be.
func TestLinkThatCannotBeJoined(t *testing.T) {
	p := newPod(t)
	files := openFiles(t)
	n, err := Attach(t.Context(), p.path)
	must(t, err)
	update := func(want string, unjoined ...string) {
		t.Helper()
		c, err := n.Update(t.Context(), p.path)
		must(t, err)
		if got := c.text(); got != want || c.Empty() != (want == "") {
			t.Errorf("change %q, want %q", got, want)
		}
		for _, name := range unjoined {
			if c.Unjoined == nil || !strings.Contains(c.Unjoined.Error(), name) {
				t.Errorf("not joined: %v; want %s", c.Unjoined, name)
			}
		}
		if len(unjoined) == 0 && c.Unjoined != nil {
			t.Errorf("not joined: %v", c.Unjoined)
		}
		must(t, n.CloseTaps())
	}
	must(t, within(p.path, func(h *netlink.Handle) error {
		return h.LinkAdd(&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "cable"}, Mode: netlink.TUNTAP_MODE_TUN}) // without an Ethernet address
	}))
	in(t, p.path, func(h *netlink.Handle, link netlink.Link) error {
		a, err := netlink.ParseAddr("10.9.0.2/24")
		return errors.Join(err, h.AddrAdd(link, a))
	}, "cable")
	p.addLink(t, "busy", "10.6.0.2/24")
	in(t, p.path, func(h *netlink.Handle, link netlink.Link) error { return h.QdiscAdd(ingress(link)) }, "busy") // somebody else's
	p.addLink(t, "aaa", "10.7.0.2/24")

	update("+net2 aaa 10.7.0.2/24 routes", "busy", "cable")
	for range 3 {
		update("", "busy", "cable")
	}
	p.addLink(t, "later", "10.8.0.2/24")
	update("+net3 later 10.8.0.2/24 routes", "busy", "cable")
	p.deleteLink(t, "cable")
	in(t, p.path, func(h *netlink.Handle, link netlink.Link) error { return delIngress(h, link) }, "busy")
	update("+net4 busy 10.6.0.2/24 routes")
	update("")

	must(t, Detach(t.Context(), p.path))
	p.deleteLink(t, "later")
	want := []string{"aaa", "busy", "eth0", "eth1", "lo"}
	if got := p.state(t); !slices.Equal(got, want) {
		t.Errorf("left %v, want %v", got, want)
	}
	if got := openFiles(t); got != files {
		t.Errorf("%d open files, there were %d", got, files)
	}
}

func TestWatch(t *testing.T) {
	p := newPod(t)
	ctx, cancel := context.WithCancel(t.Context())
	looks := make(chan struct{}, 100)
	ended := make(chan error, 1)
	fail := true
	go func() {
		ended <- Watch(ctx, p.path, func() error {
			looks <- struct{}{}
			if fail {
				fail = false
				return errors.New("once")
			}
			return nil
		})
	}()
	looked := func(why string) {
		t.Helper()
		select {
		case <-looks:
		case <-time.After(10 * time.Second):
			t.Fatalf("no look %s", why)
		}
	}
	looked("at first")
	looked("after one that failed")
	p.addLink(t, "extra", "10.7.0.2/24")
	looked("at a new link")
	for len(looks) > 0 {
		<-looks
	}
	in(t, p.path, func(h *netlink.Handle, link netlink.Link) error {
		a, err := netlink.ParseAddr("10.7.0.3/24")
		return errors.Join(err, h.AddrAdd(link, a))
	}, "extra")
	looked("at a new address")
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Watch ended with %v", err)
	}
}

func TestWatchEndsWithTheNamespace(t *testing.T) {
	p := newPod(t)
	ended := make(chan error, 1)
	looks := make(chan struct{}, 100)
	var n Network
	go func() {
		ended <- Watch(t.Context(), p.path, func() error {
			looks <- struct{}{}
			_, err := n.Update(t.Context(), p.path+".gone")
			return err
		})
	}()
	<-looks
	if err := <-ended; err != nil {
		t.Errorf("Watch ended with %v", err)
	}
	if err := Watch(t.Context(), p.path+".gone", func() error { return nil }); !errors.Is(err, errNoNamespace) {
		t.Errorf("Watch of no namespace: %v", err)
	}
}
