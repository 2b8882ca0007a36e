// Package agentclient talks to the agent in the guest: ttrpc on a connection
// that someone else dials, one method for each of the agent's requests, and
// streams that end where the process's output ends, whichever agent answers.
//
// A Client lives as long as its connection. There is no reconnection: an agent
// that was lost took its containers with it, so Done closes and every later
// request fails with ErrGone.
package agentclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

// ErrGone says that the connection to the agent is lost, and the guest's
// processes with it.
var ErrGone = fmt.Errorf("connection to the agent is lost: %w", errdefs.ErrUnavailable)

// Dialer opens one connection to the agent's port.
type Dialer func(ctx context.Context) (net.Conn, error)

// Option changes how a Client behaves.
type Option func(*Client)

// WithCreateTimeout replaces the limit of CreateContainer, which is one minute.
func WithCreateTimeout(d time.Duration) Option {
	return func(c *Client) { c.createTimeout = d }
}

// Client is a connection to one agent. It is safe for concurrent use.
type Client struct {
	ttrpc         *ttrpc.Client
	agent         agentpb.AgentServiceService
	health        agentpb.HealthService
	createTimeout time.Duration
	done          chan struct{}
}

// Connect dials until the agent answers a health check or ctx ends. The pause
// between attempts grows from 10 to 200 ms. The error of the last attempt is
// part of the answer.
func Connect(ctx context.Context, dial Dialer, options ...Option) (*Client, error) {
	pause := redialMin
	var last error
	for attempt := 1; ; attempt++ {
		c, err := connectOnce(ctx, dial, options)
		if err == nil {
			return c, nil
		}
		if ctx.Err() == nil || last == nil {
			last = err // an attempt cut short by ctx says less than the one before it
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("connect to the agent: no answer after %d attempts: %w; last: %w", attempt, context.Cause(ctx), last)
		case <-time.After(pause):
			pause = min(2*pause, redialMax)
		}
	}
}

func connectOnce(ctx context.Context, dial Dialer, options []Option) (*Client, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	conn, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	c := New(conn, options...)
	if _, err := c.Check(ctx, &agentpb.CheckRequest{}); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// New makes a Client on a connection to the agent, which it owns from then on.
func New(conn net.Conn, options ...Option) *Client {
	c := &Client{createTimeout: createContainerTimeout, done: make(chan struct{})}
	for _, o := range options {
		o(c)
	}
	lost := sync.OnceFunc(func() { close(c.done) })
	c.ttrpc = ttrpc.NewClient(newAsked(conn), ttrpc.WithOnClose(lost))
	c.agent = agentpb.NewAgentServiceClient(c.ttrpc)
	c.health = agentpb.NewHealthClient(c.ttrpc)
	return c
}

// Close ends the connection. It may be called again.
func (c *Client) Close() error {
	if err := c.ttrpc.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close the connection to the agent: %w", err)
	}
	return nil
}

// Done is closed when the connection is lost or closed.
func (c *Client) Done() <-chan struct{} { return c.done }

// call runs one request under its limit (0: none) and gives its error a class.
func call[Q, R any](ctx context.Context, rpc string, limit time.Duration, do func(context.Context, *Q) (*R, error), req *Q) (*R, error) {
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, fmt.Errorf("no answer within %v: %w", limit, context.DeadlineExceeded))
		defer cancel()
	}
	resp, err := do(ctx, req)
	if err != nil {
		return nil, toError(ctx, rpc, err)
	}
	return resp, nil
}

// tell is call for a request whose answer is empty.
func tell[Q, R any](ctx context.Context, rpc string, limit time.Duration, do func(context.Context, *Q) (*R, error), req *Q) error {
	_, err := call(ctx, rpc, limit, do, req)
	return err
}
