package agenttest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

// fault is something that goes wrong with the n-th call of an RPC.
type fault struct {
	rpc    string
	left   int // calls until it happens; 0: this one
	happen func(ctx context.Context) error
}

// inject enters a fault for the n-th call of an RPC from now on, the first being
// 1. It happens after the call was recorded and before it has any effect.
func (a *Agent) inject(rpc string, n int, happen func(context.Context) error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.faults = append(a.faults, &fault{rpc, n, happen})
}

// Fail makes the n-th call from now answer err: a status from
// google.golang.org/grpc/status, or anything else with the code UNKNOWN.
func (a *Agent) Fail(rpc string, n int, err error) {
	a.inject(rpc, n, func(context.Context) error { return err })
}

// Delay makes the n-th call from now take d longer.
func (a *Agent) Delay(rpc string, n int, d time.Duration) {
	a.inject(rpc, n, func(ctx context.Context) error {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
		return nil
	})
}

// Hang makes the n-th call from now wait until release is called, or the
// connection is closed.
func (a *Agent) Hang(rpc string, n int) (release func()) {
	released := make(chan struct{})
	a.inject(rpc, n, func(ctx context.Context) error {
		select {
		case <-released:
			return nil
		case <-a.wire.done:
		case <-ctx.Done():
		}
		return status.FromContextError(ctx.Err()).Err()
	})
	return func() { close(released) }
}

// DieAt makes the agent die instead of answering the n-th call from now.
func (a *Agent) DieAt(rpc string, n int) {
	a.inject(rpc, n, func(context.Context) error {
		a.wire.hangUp()
		return status.Error(codes.Unavailable, "died")
	})
}

// errGarbled stands for an answer that cannot be read.
var errGarbled = errors.New("garbled")

// errAnswered stands for a call that is answered by a function of the test.
var errAnswered = errors.New("answered elsewhere")

// Garble makes the agent answer the n-th call from now with bytes that are no
// message.
func (a *Agent) Garble(rpc string, n int) {
	a.inject(rpc, n, func(context.Context) error { return errGarbled })
}

// Answer has every call of an RPC from now on answered by a function, which may say
// anything, instead of as the agent would.
func (a *Agent) Answer(rpc string, answer func(ctx context.Context, request proto.Message) (proto.Message, error)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answers[rpc] = answer
}

// intercept records a call and lets its fault happen.
func (a *Agent) intercept(ctx context.Context, unmarshal ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, call ttrpc.Method) (any, error) {
	rpc := info.FullMethod[strings.LastIndex(info.FullMethod, "/")+1:]
	if strings.Contains(info.FullMethod, "AgentService") && !implemented[rpc] {
		return nil, a.flavour.unsupported(info.FullMethod)
	}
	a.mu.Lock()
	answer := a.answers[rpc]
	a.mu.Unlock()
	var request proto.Message
	resp, err := call(ctx, func(v any) error {
		if err := unmarshal(v); err != nil {
			return err
		}
		if request = v.(proto.Message); answer != nil {
			return errAnswered
		}
		if f := a.record(ctx, rpc, v.(proto.Message)); f != nil {
			return f(ctx)
		}
		return nil
	})
	if errors.Is(err, errAnswered) {
		return answer(ctx, request)
	}
	if errors.Is(err, errGarbled) {
		m := &emptypb.Empty{}
		m.ProtoReflect().SetUnknown([]byte{0xff, 0xff, 0xff})
		return m, nil
	}
	return resp, err
}

func (a *Agent) record(ctx context.Context, rpc string, request proto.Message) func(context.Context) error {
	call := Call{RPC: rpc, Request: proto.Clone(request)}
	if end, ok := ctx.Deadline(); ok {
		call.Limit = time.Until(end)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls = append(a.calls, call)
	var happen func(context.Context) error
	a.faults = slices.DeleteFunc(a.faults, func(f *fault) bool {
		if f.rpc != rpc {
			return false
		}
		if f.left--; f.left <= 0 && happen == nil {
			happen = f.happen
			return true
		}
		return false
	})
	return happen
}
