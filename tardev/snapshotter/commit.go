package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"

	"github.com/kata-cc/kata-cc/internal/undo"
	"github.com/kata-cc/kata-cc/tardev"
)

// Commit turns an image layer that was unpacked into a layer file, read from the
// layer's blob in containerd's content store: what the scratch directory holds
// plays no part. The snapshot of a container cannot be committed.
func (s *Snapshotter) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) (err error) {
	labels, err := labelsOf(opts)
	if err != nil {
		return err
	}
	active, err := s.store.claim(key, func(sn *snapshot) error {
		switch {
		case sn.record.Kind != snapshots.KindActive:
			return fmt.Errorf("commit snapshot %s, which is %s: %w", key, sn.record.Kind, errdefs.ErrFailedPrecondition)
		case !sn.record.isLayer():
			return fmt.Errorf("commit snapshot %s, which is no image layer: what a container writes never leaves its guest: %w", key, errdefs.ErrNotImplemented)
		}
		return nil
	})
	if err != nil {
		return err
	}
	var back undo.Stack
	defer back.OnError(ctx, &err)
	back.Add(func(context.Context) error { s.store.free(active); return nil })

	committed, err := s.store.reserve(name, active.record.Parent)
	if err != nil {
		return err
	}
	back.Add(func(context.Context) error { s.store.drop(committed); return nil })

	all := snapshots.FilterInheritedLabels(active.record.Labels)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, labels)
	now := timestampOf(time.Now())
	r := record{Kind: snapshots.KindCommitted, Name: name, Parent: active.record.Parent, Labels: all, Created: now, Updated: now}

	root, found, err := s.layers.acquire(ctx, LayerName(name), func() (string, error) { return s.convert(ctx, &r) })
	if err != nil {
		return fmt.Errorf("commit layer %s: %w", name, err)
	}
	back.Add(func(context.Context) error { return s.releaseLayer(name) })
	if found && digest.Digest(lastElement(name)).Validate() != nil {
		// Only a chain id says that two snapshots of one name have one content.
		return fmt.Errorf("commit layer %s: another snapshot has the layer file %s: %w", name, LayerName(name), errdefs.ErrAlreadyExists)
	}
	r.Labels[LabelRootHash] = root
	r.Updated = timestampOf(time.Now())
	if err := s.store.show(committed, r); err != nil {
		return err
	}
	back.Forget() // it is committed; what follows only tidies up
	if err := s.discard(active); err != nil {
		s.store.free(active)
		log.G(ctx).WithError(err).WithField("key", key).Warn("leftovers of a committed layer stay")
	}
	return nil
}

// discard removes a busy snapshot and its scratch directory.
func (s *Snapshotter) discard(sn *snapshot) error {
	if err := removeFile(s.store.path(sn)); err != nil {
		return err
	}
	if err := os.RemoveAll(s.store.scratch(sn)); err != nil {
		return err
	}
	s.store.drop(sn)
	return nil
}

func (s *Snapshotter) releaseLayer(key string) error {
	return s.layers.release(LayerName(key), func() error { return removeFile(s.layerPath(key)) })
}

// convert makes the layer file of a snapshot to be committed, and returns its
// root hash.
func (s *Snapshotter) convert(ctx context.Context, r *record) (_ string, err error) {
	start := time.Now()
	ctx = inNamespace(ctx, r.Name)
	b, err := s.findBlob(ctx, r)
	if err != nil {
		return "", err
	}
	defer b.Close()

	f, err := os.CreateTemp(s.dirs.staging, "layer-")
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	l, err := tardev.Build(ctx, f, b.reader(), tardev.BuildOptions{Lost: lossLog(ctx, b.digest)})
	if err != nil {
		return "", fmt.Errorf("convert blob %s: %w", b.digest, err)
	}
	if err := checkChain(r, digest.Digest(l.DiffID)); err != nil {
		return "", fmt.Errorf("convert blob %s: %w", b.digest, err)
	}
	path := s.layerPath(r.Name)
	if err := f.Chmod(0o600); err != nil {
		return "", err
	}
	if err := f.Sync(); err != nil {
		return "", fmt.Errorf("sync layer file: %w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return "", err
	}
	if err := errors.Join(f.Close(), syncDir(filepath.Dir(path))); err != nil {
		return "", errors.Join(err, removeFile(path))
	}
	log.G(ctx).WithFields(log.Fields{
		"layer": LayerName(r.Name), "blob": b.digest, "root-hash": l.RootHash, "size": l.Size,
		"inodes": l.Inodes, "duration": time.Since(start),
	}).Info("layer converted")
	return l.RootHash, nil
}

// checkChain compares what was converted with the chain id that names the
// snapshot, if its name and its parent's are chain ids.
func checkChain(r *record, diffID digest.Digest) error {
	want := digest.Digest(lastElement(r.Name))
	if want.Validate() != nil {
		return nil
	}
	chain := []digest.Digest{diffID}
	if r.Parent != "" {
		parent := digest.Digest(lastElement(r.Parent))
		if parent.Validate() != nil {
			return nil
		}
		chain = []digest.Digest{parent, diffID}
	}
	if got := identity.ChainID(chain); got != want {
		return fmt.Errorf("its diff id %s makes chain id %s, not %s: %w", diffID, got, want, errdefs.ErrDataLoss)
	}
	return nil
}

// maxLossLines bounds what is logged of one layer.
const maxLossLines = 100

// lossLog logs what a layer file cannot hold.
func lossLog(ctx context.Context, d digest.Digest) func(path, what string) {
	var lines int
	return func(path, what string) {
		if strings.HasPrefix(what, "fraction of the second") {
			return // of every file that some tools pack
		}
		l := log.G(ctx).WithField("blob", d)
		switch lines++; {
		case lines < maxLossLines:
			l.WithField("path", path).Warnf("layer file cannot hold %s", what)
		case lines == maxLossLines:
			l.Warn("layer file cannot hold more of its files, which are not listed")
		}
	}
}
