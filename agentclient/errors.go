package agentclient

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Error is what the agent answered instead of doing as it was asked. Its errdefs
// class follows from code and text; the text is the agent's, which may run over
// many lines.
type Error struct {
	RPC  string // name of the request
	Code codes.Code
	Text string
}

// Error gives the request and the agent's text without the backtrace that some
// agents append.
func (e *Error) Error() string {
	return fmt.Sprintf("agent: %s: %s", e.RPC, readable(e.Text))
}

// Unwrap gives the errdefs class, or the context error that a limit in the guest
// amounts to.
func (e *Error) Unwrap() error { return class(e.Code, e.Text) }

// toError turns what ttrpc returned into an Error, ErrGone, the context's error,
// or ErrDataLoss for an answer that is no message.
func toError(ctx context.Context, rpc string, err error) error {
	switch {
	case errors.Is(err, ttrpc.ErrClosed), errors.As(err, new(*net.OpError)):
		return fmt.Errorf("agent: %s: %w", rpc, ErrGone)
	case ctx.Err() != nil:
		return fmt.Errorf("agent: %s: %w", rpc, context.Cause(ctx))
	}
	s, ok := status.FromError(err)
	if !ok {
		return fmt.Errorf("agent: %s: answer cannot be read: %w: %w", rpc, err, errdefs.ErrDataLoss)
	}
	return &Error{RPC: rpc, Code: s.Code(), Text: s.Message()}
}
