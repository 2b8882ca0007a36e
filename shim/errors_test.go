package shim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
)

func TestEveryErrorHasACode(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want codes.Code
	}{
		{fmt.Errorf("container: %w", errdefs.ErrNotFound), codes.NotFound},
		{fmt.Errorf("wait: %w", context.DeadlineExceeded), codes.DeadlineExceeded},
		{&fs.PathError{Op: "write", Path: "/run", Err: unix.ENOSPC}, codes.ResourceExhausted},
		{&fs.PathError{Op: "open", Path: "/run", Err: unix.ENOENT}, codes.FailedPrecondition},
		{fmt.Errorf("start: %w", errors.Join(errors.New("no"), unix.EROFS)), codes.FailedPrecondition},
		{fmt.Errorf("disk: %w: %w", unix.ENOSPC, errdefs.ErrInvalidArgument), codes.InvalidArgument},
		{fmt.Errorf("dial: %w", unix.ECONNREFUSED), codes.Unavailable},
		{errors.New("something"), codes.Internal},
	} {
		if got := codeOf(tt.err); got != tt.want {
			t.Errorf("%v is %v, want %v", tt.err, got, tt.want)
		}
	}
}
