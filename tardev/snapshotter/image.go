package snapshotter

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/namespaces"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is an image of containerd's image store.
type Image struct {
	Name   string
	Target digest.Digest // of its index or manifest
}

// missing explains a layer's blob that the content store lacks, and how to get it
// back. d is "" if only the chain id is known.
func (s *Snapshotter) missing(ctx context.Context, r *record, d digest.Digest) error {
	chain := r.chainID()
	image := s.imageName(ctx, r, d)
	what := fmt.Sprintf("blob %s", d)
	if d == "" {
		what = fmt.Sprintf("the blob of the layer of chain id %s", chain)
	}
	ns, _ := namespaces.Namespace(ctx)
	if image == "" {
		return fmt.Errorf("%s is not in containerd's content store, nor is an image in namespace %s known to have it; pull the image again: %w", what, ns, errdefs.ErrNotFound)
	}
	return fmt.Errorf("%s of image %s is not in containerd's content store, which drops layers that it has unpacked if discard_unpacked_layers is set or another snapshotter had them; `ctr -n %s content fetch %s` brings it back: %w",
		what, image, ns, image, errdefs.ErrNotFound)
}

// imageName returns the name of the image that a snapshot is a layer of, as its
// labels say or the image store; "" if neither knows.
func (s *Snapshotter) imageName(ctx context.Context, r *record, d digest.Digest) string {
	if image := r.Labels[labelImageRef]; image != "" {
		return image
	}
	return s.imageOf(ctx, d, r.chainID())
}

// ofImage is " of image <name>" for an error, or "".
func (s *Snapshotter) ofImage(ctx context.Context, r *record, d digest.Digest) string {
	if image := s.imageName(ctx, r, d); image != "" {
		return " of image " + image
	}
	return ""
}

// imageOf returns the name of an image with a layer, or "". It is asked for an
// error message: what fails here is no other error.
func (s *Snapshotter) imageOf(ctx context.Context, d, chain digest.Digest) string {
	images, err := s.content.Images(ctx)
	if err != nil {
		return ""
	}
	// CRI has each image under several names; the one with a tag reads best.
	slices.SortFunc(images, func(a, b Image) int {
		return strings.Compare(untagged(a.Name)+a.Name, untagged(b.Name)+b.Name)
	})
	for _, image := range images {
		if s.hasLayer(ctx, image.Target, d, chain, maxIndexDepth) {
			return image.Name
		}
	}
	return ""
}

// untagged is a sort key: names by digest come after those with a tag.
func untagged(name string) string {
	if strings.Contains(name, "sha256:") {
		return "1"
	}
	return "0"
}

// maxIndexDepth bounds how deep an index in an index is looked into.
const maxIndexDepth = 3

// hasLayer says whether a manifest, or one of an index, has a layer.
func (s *Snapshotter) hasLayer(ctx context.Context, target, d, chain digest.Digest, depth int) bool {
	var m struct {
		Manifests []ocispec.Descriptor `json:"manifests"`
		Layers    []ocispec.Descriptor `json:"layers"`
	}
	if err := s.document(ctx, target, &m); err != nil || depth == 0 {
		return false
	}
	for _, l := range m.Layers {
		if l.Digest == d {
			return true
		}
	}
	if d == "" && len(s.layersOfChain(ctx, target, chain)) > 0 {
		return true
	}
	for _, child := range m.Manifests {
		if s.hasLayer(ctx, child.Digest, d, chain, depth-1) {
			return true
		}
	}
	return false
}
