package snapshotter

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/mount"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/kata-cc/kata-cc/tardev"
	"github.com/kata-cc/kata-cc/verity"
)

// Apply makes the layer file of a layer that is being unpacked, straight from its
// blob in containerd's content store; Commit then finds it. The mounts, which
// Prepare has returned, say which layer it is, and nothing is unpacked into them.
// The answer describes the layer's tar: its digest is the diff id.
//
// Mounts that are not this snapshotter's, or a layer of unknown chain id, are
// ErrNotImplemented: containerd then asks its next differ.
func (s *Snapshotter) Apply(ctx context.Context, blob ocispec.Descriptor, mounts []mount.Mount) (ocispec.Descriptor, error) {
	sn, chain, err := s.claimScratch(mounts)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer s.store.free(sn)
	if err = checkMediaType(blob); err != nil {
		return ocispec.Descriptor{}, err
	}
	if sn.applied.layer == "" {
		if err = s.apply(ctx, blob, sn, chain); err != nil {
			return ocispec.Descriptor{}, fmt.Errorf("apply layer %s: %w", sn.record.Name, err)
		}
	}
	m := sn.applied.made
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.Digest(m.diffID), Size: m.tarSize}, nil
}

// claimScratch makes the snapshot busy whose scratch directory the mounts are, and
// returns the chain id that it is to have.
func (s *Snapshotter) claimScratch(mounts []mount.Mount) (*snapshot, digest.Digest, error) {
	key, ok := s.ofScratch(mounts)
	if !ok {
		return nil, "", fmt.Errorf("the mounts are not of a layer of the snapshotter at %s: %w", filepath.Dir(s.dirs.staging), errdefs.ErrNotImplemented)
	}
	var chain digest.Digest
	sn, err := s.store.claim(key, func(sn *snapshot) error {
		if !sn.record.isLayer() {
			return fmt.Errorf("apply to snapshot %s, which is no image layer: %w", key, errdefs.ErrNotImplemented)
		}
		if chain = sn.record.chainID(); chain == "" {
			return fmt.Errorf("apply to snapshot %s: neither its label %s nor its key has a chain id: %w", key, labelSnapshotRef, errdefs.ErrNotImplemented)
		}
		return nil
	})
	return sn, chain, err
}

// ofScratch returns the key of the snapshot whose scratch directory the mounts are.
func (s *Snapshotter) ofScratch(mounts []mount.Mount) (string, bool) {
	if len(mounts) != 1 || mounts[0].Type != "bind" || filepath.Dir(mounts[0].Source) != s.dirs.staging {
		return "", false
	}
	file, ok := strings.CutPrefix(filepath.Base(mounts[0].Source), scratchPrefix)
	if !ok {
		return "", false
	}
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	sn := s.store.files[file]
	if sn == nil || sn == unreadable {
		return "", false
	}
	return sn.record.Name, true
}

// checkMediaType refuses what is no tar, or one that only somebody else can read:
// by the form of it, not by name, for the blob itself says how it is compressed.
func checkMediaType(blob ocispec.Descriptor) error {
	base, suffix, _ := strings.Cut(blob.MediaType, "+")
	switch base {
	case ocispec.MediaTypeImageLayer, "application/vnd.oci.image.layer.nondistributable.v1.tar",
		"application/vnd.docker.image.rootfs.diff.tar", "application/vnd.docker.image.rootfs.foreign.diff.tar":
		if suffix == "" || suffix == "gzip" || suffix == "zstd" {
			return nil
		}
	case "application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
		"application/vnd.docker.image.rootfs.diff.tar.zstd":
		if suffix == "" {
			return nil
		}
	}
	return fmt.Errorf("blob %s is of media type %q, of which no layer file can be made; tars of OCI or Docker can, plain or compressed with gzip or zstd: %w",
		blob.Digest, blob.MediaType, errdefs.ErrInvalidArgument)
}

// apply acquires the layer file for a busy snapshot.
func (s *Snapshotter) apply(ctx context.Context, desc ocispec.Descriptor, sn *snapshot, chain digest.Digest) error {
	// As if it were committed: nothing but the chain id matters of the name.
	name, parent := chain.String(), sn.record.Parent
	layer := LayerName(name)
	ctx = inNamespace(ctx, sn.record.Name)
	m, _, err := s.layers.acquire(ctx, layer, s.observed(func() (made, error) {
		b, err := s.openBlob(ctx, &sn.record, desc.Digest)
		if err != nil {
			return made{}, err
		}
		defer b.Close()
		return s.convert(ctx, b, &sn.record, name, parent)
	}))
	if err != nil {
		return err
	}
	if m.diffID == "" {
		if err = s.describe(ctx, &m, name, parent); err != nil {
			return errors.Join(err, s.releaseFile(layer))
		}
	}
	sn.applied = applied{made: m, layer: layer}
	return nil
}

// describe finds out the diff id of a layer file that an earlier process made.
func (s *Snapshotter) describe(ctx context.Context, m *made, name, parent string) (err error) {
	path := s.layerPath(name)
	defer func() {
		if err != nil {
			err = fmt.Errorf("layer file %s, which was there: %w", path, err)
		}
	}()
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	fsys, _, err := openLayer(f)
	if err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrDataLoss)
	}
	sum := sha256.New()
	if _, err = io.Copy(sum, &contextReader{ctx, io.NewSectionReader(f, 0, fsys.TarSize())}); err != nil {
		return err
	}
	m.diffID, m.tarSize = fmt.Sprintf("sha256:%x", sum.Sum(nil)), fsys.TarSize()
	return checkChain(name, parent, digest.Digest(m.diffID))
}

// openLayer opens a layer file as a file system, and returns its size.
func openLayer(f *os.File) (*tardev.FS, int64, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	sb, err := verity.ReadSuperblock(f, st.Size())
	if err != nil {
		return nil, 0, err
	}
	fsys, err := tardev.Open(f, sb.DataSize())
	return fsys, st.Size(), err
}

// contextReader is a reader that ends with a context.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *contextReader) Read(b []byte) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	return r.r.Read(b)
}
