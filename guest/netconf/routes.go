package netconf

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

// UpdateRoutes makes the routes be those asked for, beside the kernel's own and
// those of the loopback link, and returns them all.
func UpdateRoutes(want *agentpb.Routes) ([]*agentpb.Route, error) {
	if want == nil {
		return nil, fmt.Errorf("empty update routes request: %w", errdefs.ErrInvalidArgument)
	}
	routes := make([]*netlink.Route, 0, len(want.GetRoutes()))
	for _, r := range want.GetRoutes() {
		route, err := newRoute(r)
		if err != nil {
			return nil, fmt.Errorf("update routes: %w", err)
		}
		routes = append(routes, route)
	}
	// A gateway must be reachable before a route goes by it.
	slices.SortStableFunc(routes, func(a, b *netlink.Route) int { return rank(a) - rank(b) })
	if err := deleteRoutes(); err != nil {
		return nil, fmt.Errorf("update routes: %w", err)
	}
	for _, r := range routes {
		if err := netlink.RouteAdd(r); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("update routes: add route %s: %w", r, err)
		}
	}
	return Routes()
}

func rank(r *netlink.Route) int {
	if r.Gw == nil {
		return 0
	}
	return 1
}

// deleteRoutes removes the routes that somebody has set.
func deleteRoutes() error {
	old, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range old {
		if r.Protocol == unix.RTPROT_KERNEL {
			continue
		}
		if l, err := netlink.LinkByIndex(r.LinkIndex); err == nil && l.Attrs().Flags&net.FlagLoopback != 0 {
			continue
		}
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove route %s: %w", r, err)
		}
	}
	return nil
}

func newRoute(r *agentpb.Route) (*netlink.Route, error) {
	link, err := netlink.LinkByName(r.GetDevice())
	if err != nil {
		return nil, fmt.Errorf("route to %q: link %q: %w", r.GetDest(), r.GetDevice(), err)
	}
	route := &netlink.Route{LinkIndex: link.Attrs().Index, Scope: netlink.Scope(r.GetScope()), Flags: int(r.GetFlags()), MTU: int(r.GetMtu())}
	route.Family = unix.AF_INET
	if r.GetFamily() == agentpb.IPFamily_v6 {
		route.Family = unix.AF_INET6
	}
	if d := r.GetDest(); d != "" {
		if route.Dst, err = parseDest(d); err != nil {
			return nil, err
		}
	} else if route.Family == unix.AF_INET6 {
		route.Dst = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	} else {
		route.Dst = &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
	}
	for _, a := range []struct {
		text string
		ip   *net.IP
	}{{r.GetGateway(), &route.Gw}, {r.GetSource(), &route.Src}} {
		if a.text == "" {
			continue
		}
		if *a.ip = net.ParseIP(a.text); *a.ip == nil {
			return nil, fmt.Errorf("route to %q: %q is no address: %w", r.GetDest(), a.text, errdefs.ErrInvalidArgument)
		}
	}
	return route, nil
}

// parseDest reads a network, or an address, which stands for itself alone.
func parseDest(s string) (*net.IPNet, error) {
	if _, n, err := net.ParseCIDR(s); err == nil {
		return n, nil
	}
	ip := net.ParseIP(s)
	if ip == nil {
		return nil, fmt.Errorf("route to %q: no network: %w", s, errdefs.ErrInvalidArgument)
	}
	if v4 := ip.To4(); v4 != nil {
		return &net.IPNet{IP: v4, Mask: net.CIDRMask(32, 32)}, nil
	}
	return &net.IPNet{IP: ip, Mask: net.CIDRMask(128, 128)}, nil
}

// Routes lists the routes of the main table.
func Routes() ([]*agentpb.Route, error) {
	list, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var all []*agentpb.Route
	for _, r := range list {
		route := &agentpb.Route{Scope: uint32(r.Scope), Flags: uint32(r.Flags), Mtu: uint32(r.MTU)}
		if r.Family == unix.AF_INET6 {
			route.Family = agentpb.IPFamily_v6
		}
		if r.Dst != nil {
			if ones, _ := r.Dst.Mask.Size(); ones > 0 {
				route.Dest = r.Dst.String()
			}
		}
		if r.Gw != nil {
			route.Gateway = r.Gw.String()
		}
		if r.Src != nil {
			route.Source = r.Src.String()
		}
		if l, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
			route.Device = l.Attrs().Name
		}
		all = append(all, route)
	}
	return all, nil
}

// statePermanent is the state of a neighbour that is not looked for.
const statePermanent = unix.NUD_PERMANENT

// AddNeighbors enters hardware addresses of neighbours.
func AddNeighbors(want *agentpb.ARPNeighbors) error {
	if want == nil {
		return fmt.Errorf("empty add ARP neighbours request: %w", errdefs.ErrInvalidArgument)
	}
	for _, n := range want.GetARPNeighbors() {
		ip := net.ParseIP(n.GetToIPAddress().GetAddress())
		mac, err := net.ParseMAC(n.GetLladdr())
		if ip == nil || err != nil {
			return fmt.Errorf("add neighbour %q at %q: %w", n.GetToIPAddress().GetAddress(), n.GetLladdr(), errdefs.ErrInvalidArgument)
		}
		link, err := netlink.LinkByName(n.GetDevice())
		if err != nil {
			return fmt.Errorf("add neighbour %s: link %q: %w", ip, n.GetDevice(), err)
		}
		state := int(n.GetState())
		if state == 0 {
			state = statePermanent
		}
		neigh := &netlink.Neigh{LinkIndex: link.Attrs().Index, IP: ip, HardwareAddr: mac, State: state, Flags: int(n.GetFlags())}
		if err := netlink.NeighSet(neigh); err != nil {
			return fmt.Errorf("add neighbour %s: %w", ip, err)
		}
	}
	return nil
}
