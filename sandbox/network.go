package sandbox

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/containerd/log"

	"github.com/kata-cc/kata-cc/agentclient"
	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/network"
	"github.com/kata-cc/kata-cc/network/portforward"
)

// forwardPorts lets those who dial the localhost of the pod's namespace reach the
// pod. One that cannot be has everything else.
func (s *Sandbox) forwardPorts(ctx context.Context) {
	if s.network == nil {
		return
	}
	s.followAddresses(ctx)
	s.undo.Add(func(context.Context) error { // once the links are not watched any more
		if s.ports == nil {
			return nil
		}
		return s.ports.Close()
	})
}

// followAddresses has ports forwarded to the pod's addresses as they are now, from
// the first that it gets.
func (s *Sandbox) followAddresses(ctx context.Context) {
	addresses := podAddresses(s.network)
	if s.ports != nil {
		s.ports.SetTargets(addresses)
		return
	}
	if len(addresses) == 0 || s.portsRefused {
		return
	}
	f, err := portforward.Start(s.o.NetNS, addresses)
	if err != nil {
		s.portsRefused = true // by the kernel, which does not learn it
		log.G(ctx).WithError(err).Warn("port-forward will not reach this pod")
		return
	}
	s.ports = f
}

// podAddresses are those by which the pod is reached from elsewhere, those of
// the links with a default route first.
func podAddresses(n *network.Network) []netip.Addr {
	leads := map[string]bool{}
	for _, r := range n.Routes {
		if !r.Dest.IsValid() {
			leads[r.Device] = true
		}
	}
	var first, rest []netip.Addr
	for _, i := range n.Interfaces {
		for _, a := range i.Addresses {
			switch {
			case !a.Addr().IsGlobalUnicast():
			case leads[i.Name]:
				first = append(first, a.Addr())
			default:
				rest = append(rest, a.Addr())
			}
		}
	}
	return append(first, rest...)
}

// configureNetwork makes the guest take over the addresses, routes and
// neighbours of the pod's network namespace. The guest finds its neighbours by
// itself too, so a policy or an agent that does not take them stops no pod.
func configureNetwork(ctx context.Context, agent *agentclient.Client, n *network.Network) error {
	for _, i := range n.Interfaces {
		if _, err := agent.UpdateInterface(ctx, &agentpb.UpdateInterfaceRequest{Interface: guestInterface(i)}); err != nil {
			return fmt.Errorf("configure interface %s: %w", i.Name, err)
		}
	}
	if len(n.Routes) > 0 {
		if err := updateRoutes(ctx, agent, n.Routes); err != nil {
			return fmt.Errorf("configure %d routes: %w", len(n.Routes), err)
		}
	}
	if len(n.Neighbors) > 0 {
		neighbors := &agentpb.ARPNeighbors{}
		for _, h := range n.Neighbors {
			neighbors.ARPNeighbors = append(neighbors.ARPNeighbors, guestNeighbor(h))
		}
		err := agent.AddARPNeighbors(ctx, &agentpb.AddARPNeighborsRequest{Neighbors: neighbors})
		switch {
		case agentclient.IsDenied(err), agentclient.IsUnsupported(err):
			log.G(ctx).WithError(err).Warnf("the guest goes without %d neighbours", len(n.Neighbors))
		case err != nil:
			return fmt.Errorf("configure %d neighbours: %w", len(n.Neighbors), err)
		}
	}
	return nil
}

// updateRoutes makes these the guest's routes.
func updateRoutes(ctx context.Context, agent *agentclient.Client, all []network.Route) error {
	routes := &agentpb.Routes{}
	for _, r := range all {
		routes.Routes = append(routes.Routes, guestRoute(r))
	}
	_, err := agent.UpdateRoutes(ctx, &agentpb.UpdateRoutesRequest{Routes: routes})
	return err
}

func family(v6 bool) agentpb.IPFamily {
	if v6 {
		return agentpb.IPFamily_v6
	}
	return agentpb.IPFamily_v4
}

func guestInterface(i network.Interface) *agentpb.Interface {
	g := &agentpb.Interface{
		Name: i.Name, Device: i.Name, HwAddr: i.MAC.String(), Mtu: uint64(i.MTU), RawFlags: i.Flags, Type: i.Type,
	}
	for _, a := range i.Addresses {
		g.IPAddresses = append(g.IPAddresses, &agentpb.IPAddress{
			Family: family(a.Addr().Is6()), Address: a.Addr().String(), Mask: fmt.Sprint(a.Bits()),
		})
	}
	return g
}

func guestRoute(r network.Route) *agentpb.Route {
	g := &agentpb.Route{Device: r.Device, Scope: r.Scope, Family: family(r.IPv6), Flags: r.Flags, Mtu: r.MTU}
	if r.Dest.IsValid() {
		g.Dest = r.Dest.String()
	}
	if r.Gateway.IsValid() {
		g.Gateway = r.Gateway.String()
	}
	if r.Source.IsValid() {
		g.Source = r.Source.String()
	}
	return g
}

func guestNeighbor(n network.Neighbor) *agentpb.ARPNeighbor {
	return &agentpb.ARPNeighbor{
		ToIPAddress: &agentpb.IPAddress{Family: family(n.IP.Is6()), Address: n.IP.String()},
		Device:      n.Device, Lladdr: n.MAC.String(), State: n.State, Flags: n.Flags,
	}
}
