package snapshotter

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"path/filepath"
	"testing"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/containerd/namespaces"
	"github.com/containerd/containerd/services/content/contentserver"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
)

// serveContent serves a content store as containerd does, and dials it.
func serveContent(t testing.TB, c *contentStore) Content {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	contentapi.RegisterContentServer(server, contentserver.New(c.Store))
	go server.Serve(l)
	t.Cleanup(server.Stop)
	remote, conn, err := DialContent(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return remote
}

// BenchmarkConvert makes the layer file of a layer of 128 MiB that compresses by
// half: its blob read from a file, and from a content service.
func BenchmarkConvert(b *testing.B) {
	c := newContent(b)
	tar := benchTar(b)
	layers, chains := c.image(b, tar)
	for name, from := range map[string]Content{"file": c, "service": serveContent(b, c)} {
		b.Run(name, func(b *testing.B) {
			s := newSnapshotter(b, memoryDir(b), from)
			b.SetBytes(int64(len(tar)))
			before := cpu(b)
			for b.Loop() {
				ctx := namespaces.WithNamespace(context.Background(), "k8s.io")
				e := extract(b, s, "k8s.io/1/"+chains[0].String(), "")
				e.ctx = ctx
				if _, err := e.apply(layers[0]); err != nil {
					b.Fatal(err)
				}
				if err := s.Remove(ctx, e.key()); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

// cpu is the time that the process has had, which a busy machine does not stretch
// as much as it does the time of day.
func cpu(b *testing.B) int64 {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

// TestContentService: a layer is converted from a content service, whose blob is
// sent in several messages.
func TestContentService(t *testing.T) {
	c := newContent(t)
	noise := make([]byte, 5<<20) // of which gzip makes no less
	_, _ = rand.NewChaCha8([32]byte{2}).Read(noise)
	tar := tarOf(t, "noise", noise)
	layers, chains := c.image(t, tar)
	s := newSnapshotter(t, t.TempDir(), serveContent(t, c))
	e := extract(t, s, "k8s.io/1/"+chains[0].String(), "")
	if got, err := e.apply(layers[0]); err != nil || got.Digest != digest.FromBytes(tar) {
		t.Fatalf("applied %+v, error %v", got, err)
	}
	if err := e.commit(); err != nil {
		t.Fatal(err)
	}
	info, err := s.Stat(t.Context(), e.name)
	if err != nil {
		t.Fatal(err)
	}
	checkLayerFile(t, s.layerPath(e.name), info.Labels[LabelRootHash])

	lost := extract(t, s, "k8s.io/2/"+digest.FromString("lost").String(), "")
	if _, err := lost.apply(ocispec.Descriptor{Digest: digest.FromString("lost")}); !errdefs.IsNotFound(err) {
		t.Errorf("a blob that is not there: %v", err)
	}
	ctx, cancel := context.WithCancel(lost.ctx)
	cancel()
	lost.ctx = ctx
	if _, err := lost.apply(layers[0]); !errdefs.IsCanceled(err) && !errors.Is(err, context.Canceled) {
		t.Errorf("after the request was given up: %v", err)
	}
}

func tarOf(t testing.TB, name string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
