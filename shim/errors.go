package shim

import (
	"context"
	"errors"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// toStatus is the only place where an error becomes a status: its class gives the
// code, its text the message. The details that errgrpc adds are left out, as
// containerd would repeat the text of every wrapped error from them.
func toStatus(ctx context.Context, u ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, call ttrpc.Method) (any, error) {
	response, err := call(ctx, u)
	if err != nil {
		log.G(ctx).WithError(err).WithField("rpc", info.FullMethod).Debug("request failed")
		return nil, status.Error(codeOf(err), err.Error())
	}
	return response, nil
}

// codeOf is the code of an error's errdefs class, or of what the kernel said, or
// Internal: a request is never refused without a code.
func codeOf(err error) codes.Code {
	if code := status.Code(errgrpc.ToGRPC(err)); code != codes.Unknown {
		return code
	}
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return codes.Internal
	}
	switch errno {
	case unix.ENOSPC, unix.EDQUOT, unix.ENOMEM, unix.EMFILE, unix.ENFILE, unix.EAGAIN:
		return codes.ResourceExhausted
	case unix.EROFS, unix.ENOENT, unix.ENOTDIR, unix.EISDIR, unix.EACCES, unix.EPERM, unix.EBUSY:
		return codes.FailedPrecondition // NotFound would say that the task is gone
	case unix.ECONNREFUSED, unix.ECONNRESET, unix.EPIPE:
		return codes.Unavailable
	case unix.EINVAL, unix.ENAMETOOLONG:
		return codes.InvalidArgument
	case unix.ETIMEDOUT:
		return codes.DeadlineExceeded
	}
	return codes.Internal
}
