package main

import (
	"bytes"
	"context"
	"fmt"
	"io"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/content"
	"github.com/containerd/containerd/content/proxy"
	"github.com/containerd/containerd/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const (
	// maxMessage is the size in bytes of the largest message taken from containerd,
	// its own default.
	maxMessage = 16 << 20
	// maxManifest bounds manifests, indexes and configurations in bytes.
	maxManifest = 8 << 20
)

// containerdImage finds the image of a name and platform in the containerd at a
// unix socket. The image reads its layers from there until it is closed.
func containerdImage(ctx context.Context, socket, namespace, image string, platform v1.Platform) (_ v1.Image, closer io.Closer, err error) {
	conn, err := grpc.NewClient("unix://"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		return nil, nil, fmt.Errorf("containerd at %s: %w", socket, err)
	}
	defer func() {
		if err != nil {
			_ = conn.Close()
		}
	}()
	ctx = namespaces.WithNamespace(ctx, namespace)
	where := fmt.Sprintf("image %s of namespace %s in containerd at %s", image, namespace, socket)
	reply, err := imagesapi.NewImagesClient(conn).Get(ctx, &imagesapi.GetImageRequest{Name: image})
	if err != nil {
		err = errgrpc.ToNative(err)
		if errdefs.IsNotFound(err) {
			return nil, nil, fmt.Errorf("%s: %w; `ctr -n %s images ls -q` lists the names that there are", where, err, namespace)
		}
		return nil, nil, fmt.Errorf("%s: %w", where, err)
	}
	s := blobStore{ctx, proxy.NewContentStore(contentapi.NewContentClient(conn))}
	hash, err := v1.NewHash(reply.GetImage().GetTarget().GetDigest())
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", where, err)
	}
	root := blobRef{s, hash, types.MediaType(reply.GetImage().GetTarget().GetMediaType())}
	if !root.media.IsIndex() {
		found, imageErr := root.Image(hash)
		if imageErr != nil {
			return nil, nil, fmt.Errorf("%s: %w", where, imageErr)
		}
		return found, conn, nil
	}
	found, err := imagesIn(root, platform)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", where, err)
	}
	if len(found) != 1 {
		return nil, nil, fmt.Errorf("%s has %d images for %s, want one", where, len(found), platform)
	}
	return found[0], conn, nil
}

// blobStore reads blobs of containerd. It keeps the context of the one command
// that it serves, since the interfaces of images have none.
type blobStore struct {
	ctx   context.Context
	store content.Provider
}

// open returns a blob. containerd has checked it against its digest when it took
// it in.
func (s blobStore) open(h v1.Hash) (content.ReaderAt, error) {
	r, err := s.store.ReaderAt(s.ctx, ocispec.Descriptor{Digest: digest.Digest(h.String())})
	if errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("blob %s is not in the content store, which may have dropped it after the image was unpacked (discard_unpacked_layers); `ctr content fetch` of the image brings it back: %w", h, err)
	}
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", h, err)
	}
	return r, nil
}

// small returns the whole of a blob that is a document.
func (s blobStore) small(h v1.Hash) ([]byte, error) {
	r, err := s.open(h)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if r.Size() > maxManifest {
		return nil, fmt.Errorf("blob %s has %d bytes, too many for a manifest", h, r.Size())
	}
	text, err := io.ReadAll(io.NewSectionReader(r, 0, r.Size()))
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", h, err)
	}
	return text, nil
}

// blobRef is a blob of a known type: an index, a manifest or a layer.
type blobRef struct {
	blobStore
	hash  v1.Hash
	media types.MediaType
}

var (
	_ v1.ImageIndex               = blobRef{}
	_ partial.CompressedImageCore = blobRef{}
	_ partial.CompressedLayer     = blobRef{}
)

func (b blobRef) MediaType() (types.MediaType, error) { return b.media, nil }
func (b blobRef) Digest() (v1.Hash, error)            { return b.hash, nil }
func (b blobRef) RawManifest() ([]byte, error)        { return b.small(b.hash) }

func (b blobRef) Size() (int64, error) {
	r, err := b.open(b.hash)
	if err != nil {
		return 0, err
	}
	return r.Size(), r.Close()
}

func (b blobRef) IndexManifest() (*v1.IndexManifest, error) {
	text, err := b.RawManifest()
	if err != nil {
		return nil, err
	}
	return v1.ParseIndexManifest(bytes.NewReader(text))
}

func (b blobRef) ImageIndex(h v1.Hash) (v1.ImageIndex, error) {
	return blobRef{b.blobStore, h, types.OCIImageIndex}, nil
}

func (b blobRef) Image(h v1.Hash) (v1.Image, error) {
	return partial.CompressedToImage(blobRef{b.blobStore, h, types.OCIManifestSchema1})
}

func (b blobRef) RawConfigFile() ([]byte, error) {
	text, err := b.RawManifest()
	if err != nil {
		return nil, err
	}
	m, err := v1.ParseManifest(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", b.hash, err)
	}
	return b.small(m.Config.Digest)
}

func (b blobRef) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	return blobRef{b.blobStore, h, types.OCILayer}, nil
}

// Compressed returns the blob as it is, compressed or not.
func (b blobRef) Compressed() (io.ReadCloser, error) {
	r, err := b.open(b.hash)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(r, 0, r.Size()), r}, nil
}
