package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/filters"
	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
)

// Snapshotter implements containerd's snapshots.Snapshotter and Cleaner.
type Snapshotter struct {
	dirs    dirs
	disk    disk
	store   *store
	layers  *layers
	content Content
	lock    *os.File
	// converted hears of every conversion.
	converted func(Conversion)
	bounds    Bounds
	space     space
	keepAll   bool // unreadable metadata may name any layer file, so none is removed
}

var (
	_ snapshots.Snapshotter = (*Snapshotter)(nil)
	_ snapshots.Cleaner     = (*Snapshotter)(nil)
)

// New opens the store below root, making what is missing, and removes what a
// crash left: unfinished files and layer files that no snapshot has. Metadata that
// cannot be read is logged and left out; it stays, and so does every layer file
// that it may name. Only one Snapshotter can have a root; a second fails with
// ErrUnavailable.
func New(ctx context.Context, root string, content Content) (*Snapshotter, error) {
	return newOn(ctx, hostDisk{}, root, content)
}

func newOn(ctx context.Context, on disk, root string, content Content) (_ *Snapshotter, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("open snapshotter at %s: %w", root, err)
		}
	}()
	if root, err = filepath.Abs(root); err != nil {
		return nil, err
	}
	d, err := makeDirs(root)
	if err != nil {
		return nil, err
	}
	lock, err := lockDir(d.staging)
	if err != nil {
		return nil, err
	}
	s := &Snapshotter{
		dirs: d, disk: on, store: newStore(d, on), layers: &layers{files: map[string]*layer{}},
		content: content, lock: lock, converted: func(Conversion) {}, space: hostSpace,
	}
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// open loads the metadata and sweeps up.
func (s *Snapshotter) open(ctx context.Context) error {
	err := s.store.load(func(path string, err error) {
		log.G(ctx).WithError(err).WithField("path", path).Error("snapshot metadata cannot be read and is left out")
	})
	if err != nil {
		return err
	}
	for _, r := range s.store.records() {
		if r.Kind != snapshots.KindCommitted {
			continue
		}
		rootHash := r.Labels[LabelRootHash]
		if st, err := os.Stat(s.layerPath(r.Name)); err != nil || !st.Mode().IsRegular() {
			log.G(ctx).WithError(err).WithField("snapshot", r.Name).Error("layer file is missing; no container can use the image until it is removed and pulled again")
			rootHash = ""
		}
		s.layers.add(LayerName(r.Name), rootHash)
	}
	names, all := s.store.doubtful()
	for _, name := range names {
		s.layers.add(name, "")
	}
	if s.keepAll = all; all {
		log.G(ctx).Error("metadata of a name that says nothing cannot be read: no layer file is removed until `tardev-snapshotter fsck --repair` has moved it away")
	}
	if err := s.Cleanup(ctx); err != nil {
		log.G(ctx).WithError(err).Error("leftovers cannot be removed and stay until the next clean-up")
	}
	return nil
}

// Close gives up the root. It may be called again.
func (s *Snapshotter) Close() error {
	if err := s.lock.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// Stat returns what is known of a snapshot.
func (s *Snapshotter) Stat(_ context.Context, key string) (snapshots.Info, error) {
	r, err := s.store.get(key)
	if err != nil {
		return snapshots.Info{}, err
	}
	return r.info(), nil
}

// Update changes labels: those that fieldpaths name, or without fieldpaths all.
// Nothing else of a snapshot can be changed, and of the labels not the root hash,
// nor of an active snapshot those by which it is a layer's.
func (s *Snapshotter) Update(_ context.Context, info snapshots.Info, fieldpaths ...string) (snapshots.Info, error) {
	sn, err := s.store.claim(info.Name, func(*snapshot) error { return nil })
	if err != nil {
		return snapshots.Info{}, err
	}
	r := sn.record
	if r.Labels, err = updateLabels(&r, info.Labels, fieldpaths); err != nil {
		s.store.free(sn)
		return snapshots.Info{}, fmt.Errorf("update snapshot %s: %w", info.Name, err)
	}
	r.Updated = timestampOf(time.Now())
	if err := s.store.show(sn, r); err != nil {
		s.store.free(sn)
		return snapshots.Info{}, err
	}
	return r.info(), nil
}

// updateLabels returns the labels of r with the changes, but for those that say
// what the snapshot is.
func updateLabels(r *record, changed map[string]string, fieldpaths []string) (map[string]string, error) {
	labels := maps.Clone(r.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	if len(fieldpaths) == 0 {
		fieldpaths = []string{"labels"}
	}
	for _, path := range fieldpaths {
		key, one := strings.CutPrefix(path, "labels.")
		switch {
		case path == "labels":
			clear(labels)
			maps.Copy(labels, changed)
		case !one:
			return nil, fmt.Errorf("field %q cannot be changed: %w", path, errdefs.ErrInvalidArgument)
		case changed[key] == "":
			delete(labels, key)
		default:
			labels[key] = changed[key]
		}
	}
	fixed := []string{LabelRootHash}
	if r.Kind == snapshots.KindActive { // or a container's snapshot would become a layer's
		fixed = append(fixed, labelLayerDigest, labelSnapshotRef)
	}
	for _, key := range fixed {
		delete(labels, key)
		if value, ok := r.Labels[key]; ok {
			labels[key] = value
		}
	}
	return labels, nil
}

// Usage returns the size of the layer file and the number of inodes in its index;
// of a layer that is being unpacked, what its scratch directory takes. The
// snapshot of a container takes nothing.
func (s *Snapshotter) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	r, err := s.store.get(key)
	if err != nil {
		return snapshots.Usage{}, err
	}
	switch {
	case r.Kind == snapshots.KindCommitted:
		return layerUsage(s.layerPath(r.Name))
	case r.isLayer():
		dir, err := s.scratchOf(key)
		if err != nil {
			return snapshots.Usage{}, err
		}
		u, err := fs.DiskUsage(ctx, dir)
		return snapshots.Usage(u), err
	}
	return snapshots.Usage{}, nil
}

// layerUsage looks into a layer file.
func layerUsage(path string) (snapshots.Usage, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return snapshots.Usage{}, missingLayer(path)
	}
	if err != nil {
		return snapshots.Usage{}, fmt.Errorf("usage of layer file: %w", err)
	}
	defer f.Close()
	fsys, size, err := openLayer(f)
	if err != nil {
		return snapshots.Usage{}, fmt.Errorf("layer file %s: %w: %w", path, err, errdefs.ErrDataLoss)
	}
	return snapshots.Usage{Size: size, Inodes: int64(fsys.Inodes())}, nil
}

// Walk calls fn for each snapshot that matches one of the filters, in order of
// their keys.
func (s *Snapshotter) Walk(ctx context.Context, fn snapshots.WalkFunc, fs ...string) error {
	filter, err := filters.ParseAll(fs...)
	if err != nil {
		return err
	}
	list := s.store.records()
	slices.SortFunc(list, func(a, b record) int { return strings.Compare(a.Name, b.Name) })
	for _, r := range list {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !filter.Match(filters.AdapterFunc(r.field)) {
			continue
		}
		if err := fn(ctx, r.info()); err != nil {
			return err
		}
	}
	return nil
}

// field returns what a filter asks for.
func (r *record) field(path []string) (string, bool) {
	if len(path) == 0 {
		return "", false
	}
	switch path[0] {
	case "kind":
		return strings.ToLower(r.Kind.String()), true
	case "name":
		return r.Name, true
	case "parent":
		return r.Parent, true
	case "labels":
		v, ok := r.Labels[strings.Join(path[1:], ".")]
		return v, ok
	}
	return "", false
}

// layerPath returns the layer file of a committed snapshot.
func (s *Snapshotter) layerPath(key string) string {
	return filepath.Join(s.dirs.layers, LayerName(key))
}
