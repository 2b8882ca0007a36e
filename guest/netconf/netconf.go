// Package netconf sets up the guest's network, which is the pod's, as the host
// asks. It speaks netlink.
package netconf

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

const (
	linkTimeout = 3 * time.Second // a plugged network card appears late
	linkPoll    = 10 * time.Millisecond
)

// UpdateInterface gives the link with the request's hardware address a name, an
// MTU and addresses, and sets it up. Addresses it had are removed. It waits a
// while for a link that is not there yet.
func UpdateInterface(ctx context.Context, want *agentpb.Interface) (*agentpb.Interface, error) {
	if want == nil {
		return nil, fmt.Errorf("empty update interface request: %w", errdefs.ErrInvalidArgument)
	}
	mac, err := net.ParseMAC(want.GetHwAddr())
	if err != nil {
		return nil, fmt.Errorf("update interface: hardware address %q: %w", want.GetHwAddr(), errors.Join(err, errdefs.ErrInvalidArgument))
	}
	addrs := make([]*netlink.Addr, 0, len(want.GetIPAddresses()))
	for _, a := range want.GetIPAddresses() {
		addr, bad := newAddr(a)
		if bad != nil {
			return nil, fmt.Errorf("update interface %s: %w", want.GetHwAddr(), bad)
		}
		addrs = append(addrs, addr)
	}
	link, err := waitLink(ctx, mac)
	if err != nil {
		return nil, err
	}
	if err := configure(link, want, addrs); err != nil {
		return nil, fmt.Errorf("update interface %s: %w", want.GetHwAddr(), err)
	}
	return want, nil
}

func waitLink(ctx context.Context, mac net.HardwareAddr) (netlink.Link, error) {
	ctx, cancel := context.WithTimeout(ctx, linkTimeout)
	defer cancel()
	for {
		links, err := netlink.LinkList()
		if err != nil {
			return nil, fmt.Errorf("list links: %w", err)
		}
		for _, l := range links {
			if l.Attrs().HardwareAddr.String() == mac.String() {
				return l, nil
			}
		}
		select {
		case <-time.After(linkPoll):
		case <-ctx.Done():
			return nil, fmt.Errorf("Link not found (Address: %s): %w", mac, errdefs.ErrNotFound)
		}
	}
}

func configure(link netlink.Link, want *agentpb.Interface, addrs []*netlink.Addr) error {
	// A link that is up cannot be renamed.
	if err := netlink.LinkSetDown(link); err != nil {
		return fmt.Errorf("set it down: %w", err)
	}
	old, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list its addresses: %w", err)
	}
	for _, a := range old {
		if err := netlink.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove address %s: %w", a.IPNet, err)
		}
	}
	if name := want.GetName(); name != "" && name != link.Attrs().Name {
		if err := rename(link, name); err != nil {
			return err
		}
	}
	if mtu := want.GetMtu(); mtu > 0 {
		if err := netlink.LinkSetMTU(link, int(mtu)); err != nil {
			return fmt.Errorf("set MTU %d: %w", mtu, err)
		}
	}
	if want.GetRawFlags()&unix.IFF_NOARP != 0 {
		if err := netlink.LinkSetARPOff(link); err != nil {
			return fmt.Errorf("turn ARP off: %w", err)
		}
	}
	for _, a := range addrs {
		if err := netlink.AddrAdd(link, a); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add address %s: %w", a.IPNet, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set it up: %w", err)
	}
	return nil
}

// rename frees the name from another link that has it, then takes it.
func rename(link netlink.Link, name string) error {
	if other, err := netlink.LinkByName(name); err == nil && other.Attrs().Index != link.Attrs().Index {
		if err := errors.Join(netlink.LinkSetDown(other), netlink.LinkSetName(other, temporaryName(name))); err != nil {
			return fmt.Errorf("free the name %s: %w", name, err)
		}
	}
	if err := netlink.LinkSetName(link, name); err != nil {
		return fmt.Errorf("name it %s: %w", name, err)
	}
	return nil
}

// temporaryName is what a link that must give its name away is called.
func temporaryName(name string) string {
	const suffix = "_temp"
	return name[:min(len(name), unix.IFNAMSIZ-1-len(suffix))] + suffix
}

func newAddr(a *agentpb.IPAddress) (*netlink.Addr, error) {
	ip := net.ParseIP(a.GetAddress())
	bits, err := strconv.Atoi(a.GetMask())
	if ip == nil || err != nil {
		return nil, fmt.Errorf("address %q with mask %q: %w", a.GetAddress(), a.GetMask(), errdefs.ErrInvalidArgument)
	}
	size := 128
	if v4 := ip.To4(); v4 != nil {
		ip, size = v4, 32
	}
	mask := net.CIDRMask(bits, size)
	if mask == nil {
		return nil, fmt.Errorf("address %q with mask %q: %w", a.GetAddress(), a.GetMask(), errdefs.ErrInvalidArgument)
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: mask}}
	if size == 128 {
		addr.Flags = unix.IFA_F_NODAD // the host has checked it; waiting would delay the pod
	}
	return addr, nil
}

// Interfaces lists the links with their addresses.
func Interfaces() ([]*agentpb.Interface, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var all []*agentpb.Interface
	for _, l := range links {
		attrs := l.Attrs()
		i := &agentpb.Interface{
			Device: attrs.Name, Name: attrs.Name, Mtu: uint64(attrs.MTU), HwAddr: attrs.HardwareAddr.String(),
			Type: l.Type(), RawFlags: attrs.RawFlags,
		}
		addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return nil, fmt.Errorf("list addresses of %s: %w", attrs.Name, err)
		}
		for _, a := range addrs {
			bits, _ := a.Mask.Size()
			i.IPAddresses = append(i.IPAddresses, &agentpb.IPAddress{Family: family(a.IP), Address: a.IP.String(), Mask: strconv.Itoa(bits)})
		}
		all = append(all, i)
	}
	return all, nil
}

func family(ip net.IP) agentpb.IPFamily {
	if ip.To4() != nil {
		return agentpb.IPFamily_v4
	}
	return agentpb.IPFamily_v6
}
