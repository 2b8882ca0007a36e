package rpc

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"github.com/mdlayher/vsock"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

// DefaultAddress is where the agent listens: port 1024, whatever its CID.
const DefaultAddress = "vsock://-1:1024"

// shutdownTimeout is how long answers under way may take after the sandbox's end.
const shutdownTimeout = 2 * time.Second

// Listen listens on "vsock://<cid>:<port>" (-1 is any CID), "unix:///path" or
// "unix://@abstract".
func Listen(address string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		if !strings.HasPrefix(path, "@") {
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil, fmt.Errorf("listen on %s: %w", address, err)
			}
		}
		return net.Listen("unix", path)
	}
	cid, port, err := parseVsock(address)
	if err != nil {
		return nil, err
	}
	l, err := vsock.ListenContextID(cid, port, nil)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	return l, nil
}

// parseVsock reads "vsock://<cid>:<port>".
func parseVsock(address string) (cid, port uint32, err error) {
	bad := fmt.Errorf("address %q is neither vsock://<cid>:<port> nor unix://<path>: %w", address, errdefs.ErrInvalidArgument)
	rest, ok := strings.CutPrefix(address, "vsock://")
	c, p, both := strings.Cut(rest, ":")
	if !ok || !both {
		return 0, 0, bad
	}
	n, err := strconv.ParseUint(p, 10, 32)
	if err != nil {
		return 0, 0, bad
	}
	if c == "-1" {
		return math.MaxUint32, uint32(n), nil
	}
	id, err := strconv.ParseUint(c, 10, 32)
	if err != nil {
		return 0, 0, bad
	}
	return uint32(id), uint32(n), nil
}

// Serve answers on l until the sandbox is destroyed or ctx ends; answers under
// way are still sent.
func (s *Service) Serve(ctx context.Context, l net.Listener) error {
	server, err := ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(toStatus))
	if err != nil {
		return err
	}
	agentpb.RegisterAgentServiceService(server, s)
	agentpb.RegisterHealthService(server, s)
	ended := make(chan error, 1)
	counted := newCountedListener(l)
	go func() { ended <- server.Serve(context.WithoutCancel(ctx), counted) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve on %s: %w", l.Addr(), err)
	case <-s.destroyed:
	case <-ctx.Done():
	}
	shutdown, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	counted.waitAnswered(shutdown)
	return server.Close()
}
