package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
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

// Commit makes an image layer that was unpacked a committed snapshot. Its layer
// file was made by Apply, or is made now from the layer's blob in containerd's
// content store: what the scratch directory holds plays no part. The snapshot of a
// container cannot be committed.
//
// To commit what is committed already is no error if the name is a chain id, which
// says that the content is the same: containerd asks so if it was killed, or
// failed, before it had written down that the first Commit succeeded.
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
	if !s.isCommitted(name, active.record.Parent) {
		if err := s.commit(ctx, name, active, labels); err != nil {
			s.store.free(active)
			return fmt.Errorf("commit layer %s: %w", name, err)
		}
	}
	// It is committed; what follows only tidies up.
	if err := s.discard(active); err != nil {
		s.store.free(active)
		log.G(ctx).WithError(err).WithField("key", key).Warn("leftovers of a committed layer stay")
	}
	return nil
}

// isCommitted says whether a layer of the name's chain id is committed, its file
// being there.
func (s *Snapshotter) isCommitted(name, parent string) bool {
	r, err := s.store.get(name)
	if err != nil || r.Kind != snapshots.KindCommitted || r.Parent != parent || digest.Digest(lastElement(name)).Validate() != nil {
		return false
	}
	st, err := os.Stat(s.layerPath(name))
	return err == nil && st.Mode().IsRegular()
}

// commit makes the committed snapshot of a layer, whose active one stays.
func (s *Snapshotter) commit(ctx context.Context, name string, active *snapshot, labels map[string]string) (err error) {
	var back undo.Stack
	defer back.OnError(ctx, &err)
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
	r := record{Kind: snapshots.KindCommitted, Name: name, Parent: active.record.Parent, Labels: all}

	m := active.applied.made
	if active.applied.layer != LayerName(name) {
		if m, err = s.layerOf(ctx, &r); err != nil {
			return err
		}
		back.Add(func(context.Context) error { return s.releaseLayer(name) })
	}
	r.Labels[LabelRootHash] = m.rootHash
	r.Created = timestampOf(time.Now())
	r.Updated = r.Created
	if err := s.store.show(committed, r); err != nil {
		return err
	}
	if active.applied.layer == LayerName(name) {
		active.applied = applied{} // its user is the committed snapshot now
	}
	return nil
}

// layerOf acquires the layer file of a snapshot to be committed, made from the
// blob that its labels or its name lead to.
func (s *Snapshotter) layerOf(ctx context.Context, r *record) (made, error) {
	ctx = inNamespace(ctx, r.Name)
	m, found, err := s.layers.acquire(ctx, LayerName(r.Name), s.observed(func() (made, error) {
		b, err := s.findBlob(ctx, r)
		if err != nil {
			return made{}, err
		}
		defer b.Close()
		return s.convert(ctx, b, r, r.Name, r.Parent)
	}))
	if err != nil {
		return made{}, err
	}
	if found && digest.Digest(lastElement(r.Name)).Validate() != nil {
		// Only a chain id says that two snapshots of one name have one content.
		return made{}, errors.Join(fmt.Errorf("another snapshot has the layer file %s: %w", LayerName(r.Name), errdefs.ErrAlreadyExists), s.releaseLayer(r.Name))
	}
	return m, nil
}

// discard removes a busy snapshot, its scratch directory, and the layer file that
// was made for it and is nobody else's.
func (s *Snapshotter) discard(sn *snapshot) error {
	if err := removeFile(s.disk, s.store.path(sn)); err != nil {
		return err
	}
	if err := s.disk.RemoveAll(s.store.scratch(sn)); err != nil {
		return classified(err)
	}
	if layer := sn.applied.layer; layer != "" {
		sn.applied = applied{}
		if err := s.releaseFile(layer); err != nil {
			return err
		}
	}
	s.store.drop(sn)
	return nil
}

func (s *Snapshotter) releaseLayer(key string) error { return s.releaseFile(LayerName(key)) }

func (s *Snapshotter) releaseFile(name string) error {
	return s.layers.release(name, func() error { return s.removeLayer(name) })
}

// observed has whoever counts conversions hear of one.
func (s *Snapshotter) observed(make func() (made, error)) func() (made, error) {
	return func() (made, error) {
		start := time.Now()
		m, err := make()
		s.converted(Conversion{Duration: time.Since(start), Size: m.size, Err: err})
		return m, err
	}
}

// convert makes the layer file of the snapshot key above parent. What r says of
// the image is for errors.
func (s *Snapshotter) convert(ctx context.Context, b *blob, r *record, key, parent string) (_ made, err error) {
	start := time.Now()
	f, err := s.store.staging.create("layer-")
	if err != nil {
		return made{}, err
	}
	defer func() {
		if err != nil {
			err = classified(err)
			image := ""
			if errdefs.IsResourceExhausted(err) {
				image = s.ofImage(ctx, r, b.digest) // who reads it has to choose what to do without
			}
			err = fmt.Errorf("convert blob %s%s: %w", b.digest, image, errors.Join(err, f.discard()))
		}
	}()
	reading, stop := context.WithCancel(ctx)
	defer stop()
	l, err := tardev.Build(reading, s.bounded(f), s.stream(reading, b), tardev.BuildOptions{Lost: lossLog(ctx, b.digest), TempDir: s.dirs.staging})
	if err != nil {
		return made{}, err
	}
	if err := checkChain(key, parent, digest.Digest(l.DiffID)); err != nil {
		return made{}, err
	}
	path := s.layerPath(key)
	if err := f.place(path); err != nil {
		if f.moved {
			err = errors.Join(err, removeFile(s.disk, path))
		}
		return made{}, err
	}
	log.G(ctx).WithFields(log.Fields{
		"layer": LayerName(key), "blob": b.digest, "root-hash": l.RootHash, "size": l.Size,
		"inodes": l.Inodes, "duration": time.Since(start),
	}).Info("layer converted")
	return made{rootHash: l.RootHash, diffID: l.DiffID, tarSize: l.TarSize, size: l.Size}, nil
}

// checkChain compares what was converted with the chain id that names the
// snapshot, if its name and its parent's are chain ids.
func checkChain(key, parent string, diffID digest.Digest) error {
	want := digest.Digest(lastElement(key))
	if want.Validate() != nil {
		return nil
	}
	chain := []digest.Digest{diffID}
	if parent != "" {
		parent := digest.Digest(lastElement(parent))
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
