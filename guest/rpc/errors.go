package rpc

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// errShutdown ends a wait for events when the sandbox goes; clients know it by
// this empty text.
var errShutdown = status.Error(codes.Internal, `""`)

// toStatus is the one place where a Go error becomes a status.
func toStatus(ctx context.Context, u ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, call ttrpc.Method) (any, error) {
	began := time.Now()
	resp, err := call(ctx, u)
	slog.Debug("answered", "rpc", info.FullMethod, "duration_ms", time.Since(began).Milliseconds(), "error", err)
	if err == nil {
		return resp, nil
	}
	return nil, asStatus(err)
}

func asStatus(err error) error {
	var known interface{ GRPCStatus() *status.Status }
	if errors.As(err, &known) {
		return err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return status.Error(codes.DeadlineExceeded, "timeout: "+err.Error())
	}
	code := status.Code(errgrpc.ToGRPC(err))
	if code == codes.Unknown {
		code = codes.Internal
	}
	return status.Error(code, err.Error())
}

// internal gives an error the protocol's code for whatever went wrong inside.
func internal(err error) error {
	if err == nil || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return err
	}
	return status.Error(codes.Internal, err.Error())
}

// creation is the codes of a failed creation: clients know most failures only
// as internal ones, by their text.
func creation(err error) error {
	if errdefs.IsAlreadyExists(err) || errdefs.IsFailedPrecondition(err) || errdefs.IsUnavailable(err) || errdefs.IsNotImplemented(err) {
		return err
	}
	return internal(err)
}

// invalidOrInternal is the codes of the network calls.
func invalidOrInternal(err error) error {
	if errdefs.IsInvalidArgument(err) {
		return err
	}
	return internal(err)
}
