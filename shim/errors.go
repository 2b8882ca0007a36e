package shim

import (
	"context"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
)

// toStatus is the only place where an error becomes a status: its errdefs class
// gives the code.
func toStatus(ctx context.Context, u ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, call ttrpc.Method) (any, error) {
	response, err := call(ctx, u)
	if err != nil {
		log.G(ctx).WithError(err).WithField("rpc", info.FullMethod).Debug("request failed")
		return nil, errgrpc.ToGRPC(err)
	}
	return response, nil
}
