package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errhttp"
	"github.com/containerd/log"

	"github.com/kata-cc/kata-cc/mounts"
	"github.com/kata-cc/kata-cc/sandbox"
)

// maxMonitorBody bounds a request about a volume, in bytes.
const maxMonitorBody = 64 << 10

// monitorVolumes listens for requests about volumes from the first container with
// one that can be asked about on. A pod lives without it.
func (s *Service) monitorVolumes(ctx context.Context, sb *sandbox.Sandbox, plan *mounts.Plan) {
	s.mu.Lock()
	wanted := len(plan.DirectVolumes) > 0 && s.monitor == nil && !s.exiting
	var server *http.Server
	if wanted {
		server = &http.Server{
			Handler:           monitor{sb},
			ReadHeaderTimeout: monitorTimeout,
			ReadTimeout:       monitorTimeout,
			IdleTimeout:       monitorTimeout,
			BaseContext:       func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
		}
		s.monitor = server
	}
	s.mu.Unlock()
	if !wanted {
		return
	}
	listener, err := s.listenMonitor(sb.ID())
	if err != nil {
		log.G(ctx).WithError(err).Warn("volumes cannot be resized")
		s.mu.Lock()
		s.monitor = nil
		s.mu.Unlock()
		return
	}
	go func() { _ = server.Serve(listener) }() // it ends with the listener
}

func (s *Service) listenMonitor(id string) (net.Listener, error) {
	dir := s.o.StateDir
	if dir == "" {
		dir = sandbox.DefaultStateDir
	}
	path, err := sandbox.MonitorPath(dir, id)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// closeMonitor ends what monitorVolumes began, requests too.
func (s *Service) closeMonitor() {
	s.mu.Lock()
	server := s.monitor
	s.mu.Unlock()
	if server != nil {
		_ = server.Close() // the socket goes with the sandbox's directory at the latest
	}
}

// monitor answers requests about the volumes of a sandbox.
type monitor struct{ sandbox *sandbox.Sandbox }

func (m monitor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := m.serve(w, r); err != nil {
		log.G(r.Context()).WithError(err).Warn("request about a volume failed")
		http.Error(w, err.Error(), errhttp.ToHTTP(err))
	}
}

func (m monitor) serve(w http.ResponseWriter, r *http.Request) error {
	if r.URL.Path != sandbox.ResizePath {
		return fmt.Errorf("%s: only %s is served: %w", r.URL.Path, sandbox.ResizePath, errdefs.ErrNotFound)
	}
	var request sandbox.ResizeRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxMonitorBody)).Decode(&request); err != nil {
		return fmt.Errorf("%s: read the request: %w: %w", r.URL.Path, err, errdefs.ErrInvalidArgument)
	}
	return m.sandbox.ResizeVolume(r.Context(), request.VolumePath, request.Size)
}
