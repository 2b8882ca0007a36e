package network

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// describeAll says what the guest has to know of links.
func (n *Network) describeAll(h *netlink.Handle, links []addressedLink) error {
	n.Interfaces, n.Routes, n.Neighbors = nil, nil, nil
	for _, l := range links {
		if err := n.describe(h, l); err != nil {
			return fmt.Errorf("link %s: %w", l.link.Attrs().Name, err)
		}
	}
	return n.gatewayNeighbors(h)
}

// describe adds what the guest has to know of a link.
func (n *Network) describe(h *netlink.Handle, l addressedLink) error {
	a := l.link.Attrs()
	i := Interface{
		Name: a.Name, MAC: a.HardwareAddr, MTU: uint32(a.MTU), Type: l.link.Type(),
		Flags: a.RawFlags & unix.IFF_NOARP,
	}
	for _, address := range l.addresses {
		if p, ok := prefix(address.IPNet); ok && !p.Addr().IsLoopback() {
			i.Addresses = append(i.Addresses, p)
		}
	}
	n.Interfaces = append(n.Interfaces, i)

	routes, err := h.RouteListFiltered(netlink.FAMILY_ALL,
		&netlink.Route{LinkIndex: a.Index, Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.Protocol != unix.RTPROT_KERNEL && r.Type == unix.RTN_UNICAST {
			n.Routes = append(n.Routes, route(r, a.Name))
		}
	}
	neighbors, err := h.NeighList(a.Index, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list neighbours: %w", err)
	}
	for _, e := range neighbors {
		if e.State&unix.NUD_PERMANENT != 0 {
			n.addNeighbor(e, a.Name)
		}
	}
	return nil
}

func route(r netlink.Route, device string) Route {
	to := Route{
		Gateway: address(r.Gw), Source: address(r.Src), Device: device, IPv6: r.Family == unix.AF_INET6,
		Scope: uint32(r.Scope), Flags: uint32(r.Flags) & unix.RTNH_F_ONLINK, MTU: uint32(r.MTU),
	}
	if p, ok := prefix(r.Dst); ok && p.Bits() > 0 {
		to.Dest = p
	}
	return to
}

// gatewayNeighbors adds what is known of the gateways of default routes, so that
// the guest's first packet does not wait for an answer that a pod network with
// static entries would never give.
func (n *Network) gatewayNeighbors(h *netlink.Handle) error {
	for _, r := range n.Routes {
		if r.Dest.IsValid() || !r.Gateway.IsValid() {
			continue
		}
		link, err := h.LinkByName(r.Device)
		if err != nil {
			return fmt.Errorf("look up %s: %w", r.Device, err)
		}
		entries, err := h.NeighList(link.Attrs().Index, netlink.FAMILY_ALL)
		if err != nil {
			return fmt.Errorf("list neighbours of %s: %w", r.Device, err)
		}
		for _, e := range entries {
			if e.State&unix.NUD_REACHABLE != 0 && address(e.IP) == r.Gateway {
				n.addNeighbor(e, r.Device)
			}
		}
	}
	return nil
}

func (n *Network) addNeighbor(e netlink.Neigh, device string) {
	if ip := address(e.IP); ip.IsValid() && !ip.IsMulticast() && len(e.HardwareAddr) == 6 {
		n.Neighbors = append(n.Neighbors, Neighbor{IP: ip, MAC: e.HardwareAddr, Device: device, State: int32(e.State), Flags: int32(e.Flags)})
	}
}

func address(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

func prefix(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	ones, _ := n.Mask.Size()
	a := address(n.IP)
	return netip.PrefixFrom(a, ones), a.IsValid()
}
