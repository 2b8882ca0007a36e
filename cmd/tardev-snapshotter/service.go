package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"time"

	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/contrib/snapshotservice"
	"github.com/containerd/log"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/kata-cc/kata-cc/tardev/snapshotter"
)

// serve runs the daemon until ctx ends.
func serve(ctx context.Context, o options) (err error) {
	if err = errors.Join(log.SetLevel(o.LogLevel), log.SetFormat(log.OutputFormat(o.LogFormat))); err != nil {
		return err
	}
	content, conn, err := snapshotter.DialContent(o.Containerd)
	if err != nil {
		return err
	}
	defer conn.Close()
	l, err := socketFor(o.Address)
	if err != nil {
		return err
	}
	defer l.Close()
	sn, err := snapshotter.New(ctx, o.Root, content)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sn.Close()) }()
	sn.SetBounds(snapshotter.Bounds{MaxLayer: int64(o.MaxLayer), MinFree: int64(o.MinFree.bytes), MinFreePercent: o.MinFree.percent})
	m, err := startMetrics(ctx, o.Metrics, sn)
	if err != nil {
		return err
	}
	defer m.stop()

	server := grpc.NewServer(grpc.UnaryInterceptor(logRequest), grpc.WaitForHandlers(true))
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(sn))
	diffapi.RegisterDiffServer(server, sn.DiffService())
	alive := health.NewServer()
	healthpb.RegisterHealthServer(server, alive)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	log.G(ctx).WithFields(log.Fields{
		"root": o.Root, "socket": o.Address, "containerd": o.Containerd, "metrics": o.Metrics,
	}).Info("serving")
	select {
	case err := <-served:
		return fmt.Errorf("serve %s: %w", o.Address, err)
	case <-ctx.Done():
	}
	log.G(ctx).Info("stopping")
	alive.Shutdown()
	// What is not done in time is broken off, and takes back what it did.
	force := time.AfterFunc(time.Duration(o.StopTimeout), func() {
		log.G(ctx).Warn("requests are broken off")
		server.Stop()
	})
	defer force.Stop()
	server.GracefulStop()
	return <-served
}

// logRequest puts the request into the log of what it causes, and logs its end:
// as a warning if it failed otherwise than by asking for what is not there.
func logRequest(ctx context.Context, request any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	fields := log.Fields{"rpc": path.Base(info.FullMethod)}
	if r, ok := request.(interface{ GetKey() string }); ok {
		fields["snapshot"] = r.GetKey()
	}
	entry := log.G(ctx).WithFields(fields)
	start := time.Now()
	reply, err := handle(log.WithLogger(ctx, entry), request)
	entry = entry.WithField("duration", time.Since(start))
	switch code := status.Code(err); code {
	case codes.OK:
		entry.Debug("done")
	case codes.NotFound, codes.AlreadyExists, codes.Unimplemented, codes.Canceled:
		entry.WithError(err).Debug("failed")
	default:
		entry.WithError(err).Warn("failed")
	}
	return reply, err
}
