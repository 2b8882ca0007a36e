package snapshotter

import (
	"context"

	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// DiffService is containerd's diff API on Apply. It makes no diffs.
func (s *Snapshotter) DiffService() diffapi.DiffServer { return diffService{s: s} }

type diffService struct {
	diffapi.UnimplementedDiffServer
	s *Snapshotter
}

func (d diffService) Apply(ctx context.Context, r *diffapi.ApplyRequest) (*diffapi.ApplyResponse, error) {
	blob := ocispec.Descriptor{
		MediaType: r.GetDiff().GetMediaType(),
		Digest:    digest.Digest(r.GetDiff().GetDigest()),
		Size:      r.GetDiff().GetSize(),
	}
	mounts := make([]mount.Mount, 0, len(r.GetMounts()))
	for _, m := range r.GetMounts() {
		mounts = append(mounts, mount.Mount{Type: m.GetType(), Source: m.GetSource(), Target: m.GetTarget(), Options: m.GetOptions()})
	}
	tar, err := d.s.Apply(ctx, blob, mounts)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &diffapi.ApplyResponse{Applied: &types.Descriptor{
		MediaType: tar.MediaType, Digest: tar.Digest.String(), Size: tar.Size,
	}}, nil
}

// Diff says that only Apply is served here: with ErrNotImplemented containerd asks
// its next differ.
func (diffService) Diff(context.Context, *diffapi.DiffRequest) (*diffapi.DiffResponse, error) {
	return nil, errgrpc.ToGRPC(errdefs.ErrNotImplemented)
}
