package rpc

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
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

// newProcess is a request that makes a process.
type newProcess interface {
	GetStringUser() *agentpb.StringUser
	GetStdinPort() uint32
	GetStdoutPort() uint32
	GetStderrPort() uint32
}

// refuseFields refuses what a request asks for and a process would not get: a
// user named by a string, streams on ports of their own, mounts of other
// containers. Left out in silence, a process would run as another user.
func refuseFields(r newProcess) error {
	create, _ := r.(*agentpb.CreateContainerRequest)
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"string_user", r.GetStringUser() != nil},
		{"shared_mounts", len(create.GetSharedMounts()) > 0},
		{"stdin_port", r.GetStdinPort() != 0},
		{"stdout_port", r.GetStdoutPort() != 0},
		{"stderr_port", r.GetStderrPort() != 0},
	} {
		if f.set {
			return fmt.Errorf("the request's %s is not supported: %w", f.name, errdefs.ErrNotImplemented)
		}
	}
	return nil
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
