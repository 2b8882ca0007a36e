package agentclient

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
)

func TestClassOfAnAnswer(t *testing.T) {
	for _, c := range []struct {
		code codes.Code
		text string
		want error
		end  bool // of a stream
	}{
		{codes.PermissionDenied, `"CreateContainerRequest is blocked by policy: "`, errdefs.ErrPermissionDenied, true},
		{codes.NotFound, "/grpc.AgentService/SetPolicy is not supported", errdefs.ErrNotImplemented, false},
		{codes.Unimplemented, "method ResizeVolume", errdefs.ErrNotImplemented, false},
		{codes.InvalidArgument, "grpc.Other service does not exist", errdefs.ErrNotImplemented, false},
		{codes.Internal, "Invalid container id\n\nCaused by:\n    x", errdefs.ErrNotFound, true},
		{codes.InvalidArgument, `"invalid container id"`, errdefs.ErrNotFound, true},
		{codes.InvalidArgument, "InvalidContainerId", errdefs.ErrNotFound, true},
		{codes.Internal, "invalid container ID a/b", errdefs.ErrInternal, false},
		{codes.Internal, "Invalid exec id", errdefs.ErrNotFound, true},
		{codes.InvalidArgument, "invalid argument: Invalid exec id", errdefs.ErrNotFound, true},
		{codes.Unavailable, "invalid argument: cannot find init process!", errdefs.ErrNotFound, true},
		{codes.NotFound, "InitProcessNotFound", errdefs.ErrNotFound, true},
		{codes.Internal, "Process not found: InvalidExecId", errdefs.ErrNotFound, true},
		{codes.Internal, "exec_id 'e' already exists", errdefs.ErrAlreadyExists, false},
		{codes.Unavailable, "no tty", errdefs.ErrFailedPrecondition, false},
		{codes.Internal, "read meet eof\n\nStack backtrace:\n 0: x", errdefs.ErrInternal, true},
		{codes.Internal, `"eof"`, errdefs.ErrInternal, true},
		{codes.Internal, "eof", errdefs.ErrInternal, true},
		{codes.Internal, "unexpected eof in header", errdefs.ErrInternal, false},
		{codes.Internal, "cannot get stream reader", errdefs.ErrInternal, true},
		{codes.Internal, "Cannot get writer", errdefs.ErrInternal, true},
		{codes.Internal, "failed to mount x", errdefs.ErrInternal, false},
		{codes.DeadlineExceeded, "timeout", context.DeadlineExceeded, false},
		{codes.ResourceExhausted, "full", errdefs.ErrResourceExhausted, false},
	} {
		err := fmt.Errorf("more: %w", &Error{RPC: "X", Code: c.code, Text: c.text})
		if !errors.Is(err, c.want) {
			t.Errorf("%v %q: class %v, want %v", c.code, c.text, errdefs.Resolve(err), c.want)
		}
		if got := IsStreamEnd(err); got != c.end {
			t.Errorf("%v %q: end of stream: %v, want %v", c.code, c.text, got, c.end)
		}
	}
	if IsStreamEnd(nil) || !IsStreamEnd(fmt.Errorf("x: %w", ErrGone)) {
		t.Error("end of stream: want it of a lost connection and not of success")
	}
}

func TestErrorIsReadable(t *testing.T) {
	for text, want := range map[string]string{
		`"no such thing"`: "agent: X: no such thing",
		"failed to mount\n\nCaused by:\n    0: EINVAL\n\nStack backtrace:\n   0: a\n   1: b": "agent: X: failed to mount\n\nCaused by:\n    0: EINVAL",
		`"`: `agent: X: "`,
	} {
		if got := (&Error{RPC: "X", Text: text}).Error(); got != want {
			t.Errorf("Error() of %q = %q, want %q", text, got, want)
		}
	}
}
