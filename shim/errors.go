package shim

import (
	"context"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/status"
)

// toStatus is the only place where an error becomes a status: its errdefs class
// gives the code, its text the message. The details that errgrpc adds are left
// out, as containerd would repeat the text of every wrapped error from them.
func toStatus(ctx context.Context, u ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, call ttrpc.Method) (any, error) {
	response, err := call(ctx, u)
	if err != nil {
		log.G(ctx).WithError(err).WithField("rpc", info.FullMethod).Debug("request failed")
		return nil, status.Error(status.Code(errgrpc.ToGRPC(err)), err.Error())
	}
	return response, nil
}
