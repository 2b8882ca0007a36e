// Package rpc answers the agent protocol: it finds what a request is about,
// lets it act and turns the outcome into a status.
package rpc

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/guest/copyfile"
	"github.com/kata-cc/kata-cc/guest/sandbox"
)

// APIVersion is the version of the protocol which Health.Version tells.
const APIVersion = "0.0.1"

// Info is what the agent tells of itself.
type Info struct {
	Version         string
	InitDaemon      bool // the agent is the guest's init
	SupportsSeccomp bool
}

// Service implements grpc.AgentService and grpc.Health.
type Service struct {
	info    Info
	sandbox *sandbox.Sandbox
	files   *copyfile.Files

	destroyed chan struct{}
	destroy   sync.Once
}

// New is the service of one sandbox.
func New(info Info, s *sandbox.Sandbox) *Service {
	return &Service{info: info, sandbox: s, files: copyfile.New(sandbox.Shared), destroyed: make(chan struct{})}
}

// Destroyed is closed when the sandbox has been destroyed, after which the
// agent has no more to do.
func (s *Service) Destroyed() <-chan struct{} { return s.destroyed }

// Check says that the agent serves; the request's service is not looked at.
func (s *Service) Check(context.Context, *agentpb.CheckRequest) (*agentpb.HealthCheckResponse, error) {
	return &agentpb.HealthCheckResponse{Status: agentpb.HealthCheckResponse_SERVING}, nil
}

// Version tells the versions of the agent and of the protocol.
func (s *Service) Version(context.Context, *agentpb.CheckRequest) (*agentpb.VersionCheckResponse, error) {
	return &agentpb.VersionCheckResponse{GrpcVersion: APIVersion, AgentVersion: s.info.Version}, nil
}

// CreateSandbox makes the pod.
func (s *Service) CreateSandbox(ctx context.Context, r *agentpb.CreateSandboxRequest) (*emptypb.Empty, error) {
	return empty, creation(s.sandbox.Create(ctx, r))
}

// DestroySandbox ends the pod and, after the answer, the agent.
func (s *Service) DestroySandbox(ctx context.Context, _ *agentpb.DestroySandboxRequest) (*emptypb.Empty, error) {
	if err := s.sandbox.Destroy(ctx); err != nil {
		return nil, internal(err)
	}
	s.destroy.Do(func() { close(s.destroyed) })
	return empty, nil
}

// CreateContainer mounts a container's storages and makes the container.
func (s *Service) CreateContainer(ctx context.Context, r *agentpb.CreateContainerRequest) (*emptypb.Empty, error) {
	if err := refuseFields(r); err != nil {
		return nil, fmt.Errorf("create container %s: %w", r.GetContainerId(), err)
	}
	return empty, creation(s.sandbox.CreateContainer(ctx, r))
}

// StartContainer lets a created container run.
func (s *Service) StartContainer(ctx context.Context, r *agentpb.StartContainerRequest) (*emptypb.Empty, error) {
	return empty, s.sandbox.StartContainer(ctx, r.GetContainerId())
}

// CopyFile takes a piece of a file below the directory of shared files, but not
// of one in a storage: the root of a container is there too.
func (s *Service) CopyFile(ctx context.Context, r *agentpb.CopyFileRequest) (*emptypb.Empty, error) {
	if err := s.sandbox.Running(); err != nil {
		return nil, err
	}
	if at, within := s.sandbox.Storages.Within(r.GetPath()); within {
		return nil, fmt.Errorf("copy file %s: it would lie in the storage mounted at %s: %w", r.GetPath(), at, errdefs.ErrInvalidArgument)
	}
	return empty, s.files.Copy(ctx, r)
}

// GetOOMEvent waits for a container with an out-of-memory kill.
func (s *Service) GetOOMEvent(ctx context.Context, _ *agentpb.GetOOMEventRequest) (*agentpb.OOMEvent, error) {
	id, err := s.sandbox.NextOOM(ctx)
	if err != nil {
		if ctx.Err() == nil {
			return nil, errShutdown
		}
		return nil, err
	}
	return &agentpb.OOMEvent{ContainerId: id}, nil
}

// UpdateEphemeralMounts changes the size of guest memory file systems that are mounted.
func (s *Service) UpdateEphemeralMounts(ctx context.Context, r *agentpb.UpdateEphemeralMountsRequest) (*emptypb.Empty, error) {
	return empty, s.sandbox.Storages.Resize(ctx, r.GetStorages())
}

// RemoveStaleVirtiofsShareMounts has nothing to remove: no file system is shared.
func (s *Service) RemoveStaleVirtiofsShareMounts(context.Context, *agentpb.RemoveStaleVirtiofsShareMountsRequest) (*emptypb.Empty, error) {
	return empty, nil
}

var empty = &emptypb.Empty{}
