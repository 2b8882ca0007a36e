package main

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
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
// for root only, and ends in peace when told to stop.
func TestDaemon(t *testing.T) {
	t.Run("own socket", func(t *testing.T) { testDaemon(t, false) })
	t.Run("socket of systemd", func(t *testing.T) { testDaemon(t, true) })
}

func testDaemon(t *testing.T, activated bool) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	args := []string{"--root", filepath.Join(dir, "root"), "--address", socket, "--containerd-address", filepath.Join(dir, "none")}
	script := `exec "$0" "$@"`
	cmd := exec.Command("sh", append([]string{"-c", script, os.Args[0]}, args...)...)
	if activated {
		l, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		f, err := l.(*net.UnixListener).File()
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		defer f.Close()
		cmd.Args[2] = `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@"`
		cmd.ExtraFiles = []*os.File{f}
	}
	cmd.Env = append(os.Environ(), "TARDEV_SNAPSHOTTER_TEST=1")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })

	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	reply, err := healthpb.NewHealthClient(conn).Check(ctx, new(healthpb.HealthCheckRequest), grpc.WaitForReady(true))
	if err != nil || reply.Status != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("health %v, error %v", reply, err)
	}
	if st, err := os.Stat(socket); err != nil || !activated && st.Mode().Perm() != 0o600 {
		t.Errorf("socket %v, error %v", st, err)
	}
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("daemon ended with %v", err)
	}
	if _, err := os.Stat(socket); activated != (err == nil) {
		t.Errorf("socket after the end: %v", err)
	}
}
