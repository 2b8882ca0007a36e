package snapshotter

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/containerd/containerd/mount"
	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/errdefs"

	"github.com/kata-cc/kata-cc/internal/undo"
	"github.com/kata-cc/kata-cc/verity"
)

// The one mount of a container, which the runtime takes apart.
const (
	mountType      = "fuse3.kata-overlay"
	optionPrefix   = "io.katacontainers.fs-opt."
	optionLayerDir = optionPrefix + "layer-src-prefix="
	optionLayer    = optionPrefix + "layer="
	optionOverlay  = optionPrefix + "overlay-rw"
	layerOptions   = ",tar,ro," + optionPrefix + "block_device=file," + optionPrefix + "is-layer," + optionPrefix + "root-hash="
)

// Prepare begins the unpacking of an image layer, if the labels say so, or the
// snapshot of a container.
func (s *Snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return s.create(ctx, snapshots.KindActive, key, parent, opts)
}

// View makes a snapshot that differs from a container's in its kind only: layers
// are never written to.
func (s *Snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return s.create(ctx, snapshots.KindView, key, parent, opts)
}

func (s *Snapshotter) create(ctx context.Context, kind snapshots.Kind, key, parent string, opts []snapshots.Opt) (mounts []mount.Mount, err error) {
	labels, err := labelsOf(opts)
	if err != nil {
		return nil, err
	}
	sn, err := s.store.reserve(key, parent)
	if err != nil {
		return nil, err
	}
	var back undo.Stack
	defer back.OnError(ctx, &err)
	back.Add(func(context.Context) error { s.store.drop(sn); return nil })

	now := timestampOf(time.Now())
	r := record{Kind: kind, Name: key, Parent: parent, Labels: labels, Created: now, Updated: now}
	if r.isLayer() {
		dir := s.store.scratch(sn)
		back.Add(func(context.Context) error { return s.disk.RemoveAll(dir) })
		if err = s.makeScratch(dir); err != nil {
			return nil, fmt.Errorf("prepare layer %s: %w", key, err)
		}
		mounts = scratchMounts(dir)
	} else if mounts, err = s.overlayMounts(&r); err != nil {
		return nil, err
	}
	return mounts, s.store.show(sn, r)
}

func (s *Snapshotter) makeScratch(dir string) error {
	if err := s.disk.Mkdir(dir, 0o755); err != nil {
		return classified(err)
	}
	return classified(s.disk.SyncDir(s.dirs.staging))
}

func labelsOf(opts []snapshots.Opt) (map[string]string, error) {
	var info snapshots.Info
	for _, opt := range opts {
		if err := opt(&info); err != nil {
			return nil, err
		}
	}
	return info.Labels, nil
}

// Mounts returns again what Prepare or View returned.
func (s *Snapshotter) Mounts(_ context.Context, key string) ([]mount.Mount, error) {
	r, err := s.store.get(key)
	if err != nil {
		return nil, err
	}
	switch {
	case r.Kind == snapshots.KindCommitted:
		return nil, fmt.Errorf("mounts of snapshot %s, which is committed: %w", key, errdefs.ErrFailedPrecondition)
	case r.isLayer():
		dir, err := s.scratchOf(key)
		if err != nil {
			return nil, err
		}
		return scratchMounts(dir), nil
	}
	return s.overlayMounts(&r)
}

// scratchOf returns the scratch directory of a layer that is being unpacked.
func (s *Snapshotter) scratchOf(key string) (string, error) {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	sn, err := s.store.find(key)
	if err != nil {
		return "", err
	}
	return s.store.scratch(sn), nil
}

func scratchMounts(dir string) []mount.Mount {
	return []mount.Mount{{Type: "bind", Source: dir, Options: []string{"rw", "rbind"}}}
}

// overlayMounts describes the layers below a container's snapshot. It fails if
// one of them cannot be handed to a guest.
func (s *Snapshotter) overlayMounts(r *record) ([]mount.Mount, error) {
	layers, err := s.chain(r)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(layers))
	options := []string{optionLayerDir + s.dirs.layers}
	for _, l := range layers {
		st, err := os.Stat(s.layerPath(l.Name))
		if errors.Is(err, fs.ErrNotExist) || err == nil && !st.Mode().IsRegular() {
			return nil, fmt.Errorf("snapshot %s above %s: %w", r.Name, l.Name, missingLayer(s.layerPath(l.Name)))
		}
		if err != nil {
			return nil, fmt.Errorf("snapshot %s: %w", r.Name, err)
		}
		name := LayerName(l.Name)
		names = append(names, name)
		text := name + layerOptions + l.Labels[LabelRootHash]
		options = append(options, optionLayer+base64.StdEncoding.EncodeToString([]byte(text)))
	}
	options = append(options, optionOverlay, "lowerdir="+strings.Join(names, ":"))
	return []mount.Mount{{Type: mountType, Source: "/", Options: options}}, nil
}

func missingLayer(path string) error {
	return fmt.Errorf("layer file %s is missing; remove the image and pull it again: %w", path, errdefs.ErrFailedPrecondition)
}

// chain returns the layers below a snapshot, top first.
func (s *Snapshotter) chain(r *record) ([]record, error) {
	s.store.mu.Lock()
	defer s.store.mu.Unlock()
	var layers []record
	for key := r.Parent; key != ""; {
		sn, err := s.store.find(key)
		if err != nil {
			return nil, fmt.Errorf("layers of snapshot %s: %w", r.Name, err)
		}
		l := sn.record
		if l.Kind != snapshots.KindCommitted || len(layers) > len(s.store.all) {
			return nil, fmt.Errorf("layers of snapshot %s: %s is no committed layer: %w", r.Name, key, errdefs.ErrFailedPrecondition)
		}
		if err := verity.CheckRootHash(l.Labels[LabelRootHash]); err != nil {
			return nil, fmt.Errorf("layers of snapshot %s: label %s of %s: %w: %w", r.Name, LabelRootHash, key, err, errdefs.ErrFailedPrecondition)
		}
		layers = append(layers, l)
		key = l.Parent
	}
	if len(layers) == 0 {
		return nil, fmt.Errorf("snapshot %s has no parent, and this snapshotter keeps nothing but image layers: %w", r.Name, errdefs.ErrFailedPrecondition)
	}
	return layers, nil
}
