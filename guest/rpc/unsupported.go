package rpc

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

// unsupported is how agents of this protocol refuse a call they know and do not
// implement.
func unsupported(method string) error {
	return status.Errorf(codes.Unimplemented, "/grpc.AgentService/%s is not supported", method)
}

// SetPolicy is refused: this agent enforces no policy, and says so by the code
// that agents built without one use.
func (s *Service) SetPolicy(context.Context, *agentpb.SetPolicyRequest) (*emptypb.Empty, error) {
	return nil, status.Error(codes.NotFound, "/grpc.AgentService/SetPolicy is not supported")
}

// AddSwap is not supported: swap would carry guest memory to the host.
func (s *Service) AddSwap(context.Context, *agentpb.AddSwapRequest) (*emptypb.Empty, error) {
	return nil, unsupported("AddSwap")
}

// AddSwapPath is not supported, for the same reason.
func (s *Service) AddSwapPath(context.Context, *agentpb.AddSwapPathRequest) (*emptypb.Empty, error) {
	return nil, unsupported("AddSwapPath")
}

// GetIPTables is not supported.
func (s *Service) GetIPTables(context.Context, *agentpb.GetIPTablesRequest) (*agentpb.GetIPTablesResponse, error) {
	return nil, unsupported("GetIPTables")
}

// SetIPTables is not supported.
func (s *Service) SetIPTables(context.Context, *agentpb.SetIPTablesRequest) (*agentpb.SetIPTablesResponse, error) {
	return nil, unsupported("SetIPTables")
}

// MemAgentMemcgSet is not supported.
func (s *Service) MemAgentMemcgSet(context.Context, *agentpb.MemAgentMemcgConfig) (*emptypb.Empty, error) {
	return nil, unsupported("MemAgentMemcgSet")
}

// MemAgentCompactSet is not supported.
func (s *Service) MemAgentCompactSet(context.Context, *agentpb.MemAgentCompactConfig) (*emptypb.Empty, error) {
	return nil, unsupported("MemAgentCompactSet")
}
