package main

import (
	"os"
	"testing"

	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// TestMain lets the tests run this binary as the daemon.
func TestMain(m *testing.M) {
	if os.Getenv("TARDEV_SNAPSHOTTER_TEST") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestDaemon: with a socket of its own or systemd's it answers that it is healthy,
// for root only, serves both APIs, and ends in peace when told to stop.
func TestDaemon(t *testing.T) {
	t.Run("own socket", func(t *testing.T) { testDaemon(t, false) })
	t.Run("socket of systemd", func(t *testing.T) { testDaemon(t, true) })
}

func testDaemon(t *testing.T, activated bool) {
	d := startDaemon(t, daemonOptions{activated: activated})
	reply, err := healthpb.NewHealthClient(d.conn).Check(d.ctx, new(healthpb.HealthCheckRequest))
	if err != nil || reply.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health %v, error %v", reply, err)
	}
	if st, err := os.Stat(d.socket); err != nil || !activated && st.Mode().Perm() != 0o600 {
		t.Errorf("socket %v, error %v", st, err)
	}
	if _, err := snapshotsapi.NewSnapshotsClient(d.conn).Stat(d.ctx, &snapshotsapi.StatSnapshotRequest{Key: "none"}); status.Code(err) != codes.NotFound {
		t.Errorf("stat: %v", err)
	}
	differ := diffapi.NewDiffClient(d.conn)
	if _, err := differ.Apply(d.ctx, new(diffapi.ApplyRequest)); status.Code(err) != codes.Unimplemented {
		t.Errorf("apply to foreign mounts: %v", err)
	}
	if _, err := differ.Diff(d.ctx, new(diffapi.DiffRequest)); status.Code(err) != codes.Unimplemented {
		t.Errorf("diff: %v", err)
	}
	d.signal(unix.SIGTERM)
	if err := d.wait(); err != nil {
		t.Errorf("daemon ended with %v", err)
	}
	if _, err := os.Stat(d.socket); activated != (err == nil) {
		t.Errorf("socket after the end: %v", err)
	}
}
