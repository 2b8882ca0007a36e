package snapshotter

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/containerd/content"
	"github.com/containerd/containerd/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Content is what the snapshotter needs of containerd's content store, and of its
// image store for error messages. A context says which namespace is asked.
type Content interface {
	content.Provider
	Walk(ctx context.Context, fn content.WalkFunc, filters ...string) error
	Images(ctx context.Context) ([]Image, error)
}

// manifestFilter finds blobs that containerd has recognised as manifests: it
// labels them with the config that they keep alive.
const manifestFilter = `labels."containerd.io/gc.ref.content.config"`

// maxDocument bounds in bytes what is read as a manifest or image config.
const maxDocument = 8 << 20

// blob is an open blob of a layer.
type blob struct {
	content.ReaderAt
	digest digest.Digest
}

// streamer is a Content that reads a whole blob in one request. A [Content] that
// is none is asked again for every few bytes.
type streamer interface {
	// Stream reads a blob from its beginning. The request goes on until ctx ends.
	Stream(ctx context.Context, d digest.Digest) io.Reader
}

// stream reads a blob. The caller ends ctx when it has read enough.
func (s *Snapshotter) stream(ctx context.Context, b *blob) io.Reader {
	if from, ok := s.content.(streamer); ok {
		return from.Stream(ctx, b.digest)
	}
	return io.NewSectionReader(b, 0, b.Size())
}

// inNamespace makes sure that ctx has a namespace. containerd sends one along
// with most requests, and begins every key with it.
func inNamespace(ctx context.Context, key string) context.Context {
	ns, ok := namespaces.Namespace(ctx)
	if !ok {
		ns, _, ok = strings.Cut(key, "/")
	}
	if !ok {
		ns = namespaces.Default
	}
	return namespaces.WithNamespace(ctx, ns)
}

// findBlob opens the blob of a layer: by the digest in its labels, which CRI sets,
// or else by its chain id through the images in the content store.
func (s *Snapshotter) findBlob(ctx context.Context, r *record) (*blob, error) {
	if d := digest.Digest(r.Labels[labelLayerDigest]); d != "" {
		b, err := s.openBlob(ctx, r, d)
		if err != nil {
			return nil, fmt.Errorf("label %s: %w", labelLayerDigest, err)
		}
		return b, nil
	}
	chain := r.chainID()
	if chain == "" {
		return nil, fmt.Errorf("neither a label %s nor a chain id says which blob it is: %w", labelLayerDigest, errdefs.ErrInvalidArgument)
	}
	for _, filter := range [][]string{{manifestFilter}, nil} {
		b, err := s.blobOfChain(ctx, chain, filter)
		if b != nil || err != nil {
			return b, err
		}
	}
	return nil, s.missing(ctx, r, "")
}

// openBlob opens a layer's blob by its digest.
func (s *Snapshotter) openBlob(ctx context.Context, r *record, d digest.Digest) (*blob, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("blob %q: %w: %w", d, err, errdefs.ErrInvalidArgument)
	}
	ra, err := s.content.ReaderAt(ctx, ocispec.Descriptor{Digest: d})
	if errdefs.IsNotFound(err) {
		return nil, s.missing(ctx, r, d)
	}
	if err != nil {
		return nil, fmt.Errorf("open blob %s in containerd's content store: %w", d, err)
	}
	return &blob{ra, d}, nil
}

// blobOfChain looks through the manifests of the content store for a layer with
// the chain id whose blob is there. Without one it returns nil.
func (s *Snapshotter) blobOfChain(ctx context.Context, chain digest.Digest, filter []string) (*blob, error) {
	var found []digest.Digest
	err := s.content.Walk(ctx, func(info content.Info) error {
		if info.Size <= maxDocument {
			found = append(found, info.Digest)
		}
		return nil
	}, filter...)
	if err != nil {
		return nil, fmt.Errorf("list containerd's content store: %w", err)
	}
	for _, d := range found {
		for _, layer := range s.layersOfChain(ctx, d, chain) {
			ra, err := s.content.ReaderAt(ctx, layer)
			if errdefs.IsNotFound(err) {
				continue // another image may have it in another compression
			}
			if err != nil {
				return nil, fmt.Errorf("open blob %s: %w", layer.Digest, err)
			}
			return &blob{ra, layer.Digest}, nil
		}
	}
	return nil, nil
}

// layersOfChain returns the layers of a manifest that have a chain id: one or
// none. What is no manifest has none.
func (s *Snapshotter) layersOfChain(ctx context.Context, d, chain digest.Digest) []ocispec.Descriptor {
	var m ocispec.Manifest
	if err := s.document(ctx, d, &m); err != nil || m.Config.Digest == "" || len(m.Layers) == 0 {
		return nil
	}
	var image ocispec.Image
	if err := s.document(ctx, m.Config.Digest, &image); err != nil || len(image.RootFS.DiffIDs) != len(m.Layers) {
		return nil
	}
	chains := identity.ChainIDs(append([]digest.Digest(nil), image.RootFS.DiffIDs...))
	for i, c := range chains {
		if c == chain {
			return m.Layers[i : i+1]
		}
	}
	return nil
}

// errNoDocument says that a blob is no JSON object.
var errNoDocument = errors.New("no JSON object")

// document reads a blob as JSON. A blob that does not begin as an object is not
// read further.
func (s *Snapshotter) document(ctx context.Context, d digest.Digest, into any) error {
	ra, err := s.content.ReaderAt(ctx, ocispec.Descriptor{Digest: d})
	if err != nil {
		return err
	}
	defer ra.Close()
	if ra.Size() == 0 || ra.Size() > maxDocument {
		return errNoDocument
	}
	var first [1]byte
	if _, err = ra.ReadAt(first[:], 0); err != nil || !bytes.Contains([]byte("{ \t\r\n"), first[:]) {
		return errors.Join(errNoDocument, err)
	}
	data, err := io.ReadAll(io.NewSectionReader(ra, 0, ra.Size()))
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}
