package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	apitypes "github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/content"
	"github.com/containerd/containerd/content/local"
	"github.com/containerd/containerd/namespaces"
	"github.com/containerd/containerd/services/content/contentserver"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
)

// images answers containerd's image service from a map of namespace and name.
type images struct {
	imagesapi.UnimplementedImagesServer
	targets map[string]*apitypes.Descriptor
}

func (i images) Get(ctx context.Context, r *imagesapi.GetImageRequest) (*imagesapi.GetImageResponse, error) {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	target := i.targets[ns+" "+r.GetName()]
	if target == nil {
		return nil, errgrpc.ToGRPC(errdefs.ErrNotFound)
	}
	return &imagesapi.GetImageResponse{Image: &imagesapi.Image{Name: r.GetName(), Target: target}}, nil
}

// serveContainerd serves content and image store on a socket, on containerd's wire.
func serveContainerd(t *testing.T, store content.Store, i images) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "containerd.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	contentapi.RegisterContentServer(s, contentserver.New(store))
	imagesapi.RegisterImagesServer(s, i)
	go func() { _ = s.Serve(listener) }()
	t.Cleanup(s.Stop)
	return socket
}

func put(t *testing.T, store content.Store, data []byte) {
	t.Helper()
	d := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
	if err := content.WriteBlob(t.Context(), store, d.Digest.String(), bytes.NewReader(data), d); err != nil {
		t.Fatal(err)
	}
}

// putImage stores an image of the golden layer.
func putImage(t *testing.T, store content.Store, image v1.Image) *apitypes.Descriptor {
	t.Helper()
	manifest, err := image.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	put(t, store, manifest)
	put(t, store, config)
	put(t, store, goldenTar())
	return &apitypes.Descriptor{MediaType: string(types.OCIManifestSchema1), Digest: digest.FromBytes(manifest).String(), Size: int64(len(manifest))}
}

func TestLayerCacheFromContainerd(t *testing.T) {
	store, err := local.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), static.NewLayer(goldenTar(), types.OCIUncompressedLayer))
	if err != nil {
		t.Fatal(err)
	}
	single := putImage(t, store, image)
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
		mutate.IndexAddendum{Add: empty.Image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}})
	text, err := index.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	put(t, store, text)
	several := &apitypes.Descriptor{MediaType: string(types.OCIImageIndex), Digest: digest.FromBytes(text).String(), Size: int64(len(text))}
	const reference = "registry.example/a:1"
	socket := serveContainerd(t, store, images{targets: map[string]*apitypes.Descriptor{
		"k8s.io " + reference: single, "other " + reference: several}})

	for _, ns := range []string{"k8s.io", "other"} {
		file := filepath.Join(t.TempDir(), "cache.json")
		out, _ := mustRun(t, "layer-cache", "--containerd", socket, "-n", ns, "-o", file, reference)
		if want := goldenDiffID + "  " + goldenHash + "\n"; out != want {
			t.Errorf("namespace %s: printed %q, want %q", ns, out, want)
		}
		var entries []cacheEntry
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &entries); err != nil || len(entries) != 1 || entries[0] != (cacheEntry{goldenDiffID, goldenHash}) {
			t.Errorf("namespace %s: cache has %v, error %v", ns, entries, err)
		}
	}
	refused := filepath.Join(t.TempDir(), "cache.json")
	for want, args := range map[string][]string{
		"images ls -q":     {"-n", "none", reference},
		"has 0 images for": {"-n", "other", "--platform", "linux/s390x", reference},
	} {
		_, _, err := run(t, append([]string{"layer-cache", "--containerd", socket, "-o", refused}, args...)...)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("layer-cache %v: %v, want %q", args, err, want)
		}
	}
	if err := store.Delete(t.Context(), digest.FromBytes(goldenTar())); err != nil {
		t.Fatal(err)
	}
	if _, _, err := run(t, "layer-cache", "--containerd", socket, "-o", refused, reference); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "content fetch") {
		t.Errorf("without the layer's blob: %v", err)
	}
	if _, _, err := run(t, "layer-cache", "--containerd", socket+"x", "-o", refused, reference); !errdefs.IsUnavailable(err) {
		t.Errorf("without containerd: %v", err)
	}
	if _, err := os.Stat(refused); err == nil {
		t.Error("a refused run wrote a cache")
	}
}
