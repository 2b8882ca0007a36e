package main

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/content"
	"github.com/containerd/containerd/content/local"
	"github.com/containerd/containerd/namespaces"
	"github.com/containerd/containerd/services/content/contentserver"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// testTimeout bounds what a test waits for.
const testTimeout = time.Minute

// daemon is this binary, run as the daemon.
type daemon struct {
	t            *testing.T
	ctx          context.Context
	root, socket string
	cmd          *exec.Cmd
	log          bytes.Buffer // to be read once it has ended
	conn         *grpc.ClientConn
	ended        chan error
}

type daemonOptions struct {
	activated  bool   // by a socket of systemd
	containerd string // socket; none if empty
	args       []string
}

func startDaemon(t *testing.T, o daemonOptions) *daemon {
	t.Helper()
	dir := t.TempDir()
	d := &daemon{t: t, root: filepath.Join(dir, "root"), socket: filepath.Join(dir, "s"), ended: make(chan error, 1)}
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.WithoutCancel(t.Context()), "k8s.io"), testTimeout)
	t.Cleanup(cancel)
	d.ctx = ctx
	if o.containerd == "" {
		o.containerd = filepath.Join(dir, "none")
	}
	args := append([]string{"--root", d.root, "--address", d.socket, "--containerd-address", o.containerd}, o.args...)
	script := `exec "$0" "$@"`
	if o.activated {
		script = "LISTEN_PID=$$ LISTEN_FDS=1 " + script
	}
	d.cmd = exec.Command("sh", append([]string{"-c", script, os.Args[0]}, args...)...)
	if o.activated {
		l, err := net.Listen("unix", d.socket)
		if err != nil {
			t.Fatal(err)
		}
		f, err := l.(*net.UnixListener).File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		defer f.Close()
		d.cmd.ExtraFiles = []*os.File{f}
	}
	d.cmd.Env = append(os.Environ(), "TARDEV_SNAPSHOTTER_TEST=1")
	d.cmd.Stderr = &d.log
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { d.ended <- d.cmd.Wait() }()
	t.Cleanup(func() {
		_ = d.cmd.Process.Kill()
		_ = d.wait()
		if t.Failed() {
			t.Logf("log:\n%s", d.log.Bytes())
		}
	})
	var err error
	if d.conn, err = grpc.NewClient("unix://"+d.socket, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.conn.Close() })
	if _, err = healthpb.NewHealthClient(d.conn).Check(d.ctx, new(healthpb.HealthCheckRequest), grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *daemon) signal(s os.Signal) {
	d.t.Helper()
	if err := d.cmd.Process.Signal(s); err != nil {
		d.t.Fatal(err)
	}
}

// wait waits for the end, whose error it returns; it may be called again.
func (d *daemon) wait() error {
	select {
	case err := <-d.ended:
		d.ended <- err
		return err
	case <-d.ctx.Done():
		return d.ctx.Err()
	}
}

// store is the content store of a containerd, which can make a reader wait.
type store struct {
	content.Store
	reading chan struct{} // is sent to when a blob is opened; nil if not
	resume  chan struct{}
}

func (s *store) ReaderAt(ctx context.Context, d ocispec.Descriptor) (content.ReaderAt, error) {
	if s.reading != nil {
		s.reading <- struct{}{}
		select {
		case <-s.resume:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return s.Store.ReaderAt(ctx, d)
}

// startStore serves a content store with a layer in it.
func startStore(t *testing.T) (s *store, socket string, layer ocispec.Descriptor) {
	t.Helper()
	cs, err := local.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s = &store{Store: cs}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err = w.WriteHeader(&tar.Header{Name: "file", Mode: 0o644, Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	if err = w.Close(); err != nil {
		t.Fatal(err)
	}
	layer = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(b.Bytes()), Size: int64(b.Len())}
	if err = content.WriteBlob(t.Context(), cs, "layer", &b, layer); err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(t.TempDir(), "containerd")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	contentapi.RegisterContentServer(server, contentserver.New(s))
	go server.Serve(l)
	t.Cleanup(server.Stop)
	return s, socket, layer
}

// apply prepares a layer, the number n of its kind, and has it converted.
func (d *daemon) apply(n int, layer ocispec.Descriptor) error {
	prepared, err := snapshotsapi.NewSnapshotsClient(d.conn).Prepare(d.ctx, &snapshotsapi.PrepareSnapshotRequest{
		Key: d.key(n, layer), Labels: map[string]string{"containerd.io/snapshot.ref": layer.Digest.String()},
	})
	if err != nil {
		return err
	}
	applied, err := diffapi.NewDiffClient(d.conn).Apply(d.ctx, &diffapi.ApplyRequest{
		Diff:   &types.Descriptor{MediaType: layer.MediaType, Digest: layer.Digest.String(), Size: layer.Size},
		Mounts: prepared.Mounts,
	})
	if err == nil && applied.Applied.Digest != layer.Digest.String() {
		err = fmt.Errorf("applied %s, not %s", applied.Applied.Digest, layer.Digest)
	}
	return err
}

func (d *daemon) key(n int, layer ocispec.Descriptor) string {
	return fmt.Sprintf("k8s.io/%d/extract-%d %s", n, n, layer.Digest)
}

// commit ends what apply began.
func (d *daemon) commit(n int, layer ocispec.Descriptor) error {
	_, err := snapshotsapi.NewSnapshotsClient(d.conn).Commit(d.ctx, &snapshotsapi.CommitSnapshotRequest{
		Key: d.key(n, layer), Name: fmt.Sprintf("k8s.io/%d/%s", n+1, layer.Digest),
	})
	return err
}

// files lists what is in a directory of the root.
func (d *daemon) files(dir string) (names []string) {
	d.t.Helper()
	entries, err := os.ReadDir(filepath.Join(d.root, dir))
	if err != nil {
		d.t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestStopLetsAConversionEnd: what is under way when the signal comes is answered,
// and nothing new is begun.
func TestStopLetsAConversionEnd(t *testing.T) {
	s, socket, layer := startStore(t)
	s.reading, s.resume = make(chan struct{}), make(chan struct{})
	d := startDaemon(t, daemonOptions{containerd: socket, args: []string{"--stop-timeout", testTimeout.String()}})
	applied := make(chan error, 1)
	go func() { applied <- d.apply(1, layer) }()
	<-s.reading
	d.signal(unix.SIGTERM)
	// The socket goes when the stop has begun.
	for _, err := os.Stat(d.socket); err == nil && d.ctx.Err() == nil; _, err = os.Stat(d.socket) {
		time.Sleep(time.Millisecond)
	}
	s.resume <- struct{}{}
	if err := <-applied; err != nil {
		t.Errorf("apply: %v", err)
	}
	if err := d.wait(); err != nil {
		t.Errorf("daemon ended with %v", err)
	}
}

// TestStopBreaksOffAConversion: what takes too long takes back what it did.
func TestStopBreaksOffAConversion(t *testing.T) {
	s, socket, layer := startStore(t)
	s.reading, s.resume = make(chan struct{}), make(chan struct{})
	d := startDaemon(t, daemonOptions{containerd: socket, args: []string{"--stop-timeout", "1ms"}})
	applied := make(chan error, 1)
	go func() { applied <- d.apply(1, layer) }()
	<-s.reading
	d.signal(unix.SIGTERM)
	if err := <-applied; err == nil {
		t.Error("apply succeeded")
	}
	if err := d.wait(); err != nil {
		t.Errorf("daemon ended with %v", err)
	}
	if layers, staging := d.files("layers"), d.files("staging"); len(layers) != 0 || len(staging) != 1 {
		t.Errorf("left: layers %q, staging %q; want the scratch directory alone", layers, staging)
	}
}
