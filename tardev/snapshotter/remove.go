package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
)

// Remove removes a snapshot that no other has as its parent; with a committed one
// the layer file, unless another namespace's snapshot has it, too.
func (s *Snapshotter) Remove(ctx context.Context, key string) error {
	// A request that was given up may still be taking back what it did.
	sn, err := s.store.claimWaiting(ctx, key, func(sn *snapshot) error {
		if sn.children > 0 {
			return fmt.Errorf("remove snapshot %s, which %d others are built on: %w", key, sn.children, errdefs.ErrFailedPrecondition)
		}
		sn.leaving = true
		return nil
	})
	if err != nil {
		return err
	}
	kind := sn.record.Kind
	// The metadata goes first: a layer file without it is swept up at the next start.
	if err := s.discard(sn); err != nil {
		s.store.free(sn)
		return fmt.Errorf("remove snapshot %s: %w", key, err)
	}
	if kind == snapshots.KindCommitted {
		if err := s.releaseLayer(key); err != nil {
			// The snapshot is gone all the same; Cleanup tries again.
			log.G(ctx).WithError(err).WithField("key", key).Warn("layer file of a removed snapshot stays")
		}
	}
	return nil
}

// Cleanup removes what no snapshot has and nothing is at work on: scratch
// directories without their snapshot, unfinished files and layer files that nobody
// has. containerd calls it after a garbage collection.
func (s *Snapshotter) Cleanup(ctx context.Context) error {
	names, err := os.ReadDir(s.dirs.staging)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range names {
		file, scratch := strings.CutPrefix(e.Name(), scratchPrefix)
		if scratch && s.store.hasFile(file) || s.store.staging.has(e.Name()) {
			continue
		}
		path := filepath.Join(s.dirs.staging, e.Name())
		log.G(ctx).WithField("path", path).Info("remove leftover")
		errs = append(errs, classified(s.disk.RemoveAll(path)))
	}
	return errors.Join(append(errs, s.cleanLayers(ctx))...)
}

// cleanLayers removes the layer files that nobody has.
func (s *Snapshotter) cleanLayers(ctx context.Context) error {
	files, err := os.ReadDir(s.dirs.layers)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range files {
		errs = append(errs, s.layers.sweep(e.Name(), func() error {
			log.G(ctx).WithField("layer", e.Name()).Info("layer file that no snapshot has")
			return s.removeLayer(e.Name())
		}))
	}
	return errors.Join(errs...)
}

// removeLayer removes a layer file that nobody has, as far as is known.
func (s *Snapshotter) removeLayer(name string) error {
	if s.keepAll {
		return nil
	}
	return removeFile(s.disk, filepath.Join(s.dirs.layers, name))
}

// hasFile says whether a snapshot has the metadata file.
func (s *store) hasFile(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.files[name] != nil
}
