package rpc

import (
	"context"

	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/guest/netconf"
)

// UpdateInterface sets up the link with the request's hardware address.
func (s *Service) UpdateInterface(ctx context.Context, r *agentpb.UpdateInterfaceRequest) (*agentpb.Interface, error) {
	i, err := netconf.UpdateInterface(ctx, r.GetInterface())
	return i, invalidOrInternal(err)
}

// UpdateRoutes replaces the routes.
func (s *Service) UpdateRoutes(_ context.Context, r *agentpb.UpdateRoutesRequest) (*agentpb.Routes, error) {
	routes, err := netconf.UpdateRoutes(r.GetRoutes())
	return &agentpb.Routes{Routes: routes}, invalidOrInternal(err)
}

// ListInterfaces lists the links.
func (s *Service) ListInterfaces(context.Context, *agentpb.ListInterfacesRequest) (*agentpb.Interfaces, error) {
	all, err := netconf.Interfaces()
	return &agentpb.Interfaces{Interfaces: all}, err
}

// ListRoutes lists the routes.
func (s *Service) ListRoutes(context.Context, *agentpb.ListRoutesRequest) (*agentpb.Routes, error) {
	all, err := netconf.Routes()
	return &agentpb.Routes{Routes: all}, err
}

// AddARPNeighbors enters hardware addresses of neighbours.
func (s *Service) AddARPNeighbors(_ context.Context, r *agentpb.AddARPNeighborsRequest) (*emptypb.Empty, error) {
	return empty, invalidOrInternal(netconf.AddNeighbors(r.GetNeighbors()))
}
