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
func (s *Snapshotter) Remove(_ context.Context, key string) error {
	sn, err := s.store.claim(key, func(sn *snapshot) error {
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
			return fmt.Errorf("remove snapshot %s: %w", key, err)
		}
	}
	return nil
}

// Cleanup removes what no snapshot has and nothing is at work on. containerd calls
// it after a garbage collection.
func (s *Snapshotter) Cleanup(ctx context.Context) error {
	return s.sweep(ctx, func(name string) bool {
		return !strings.HasPrefix(name, scratchPrefix) // a file in the making
	})
}

// sweep removes scratch directories without their snapshot, layer files that
// nobody has, and everything else in staging but what inUse says is.
func (s *Snapshotter) sweep(ctx context.Context, inUse func(name string) bool) error {
	staged, err := os.ReadDir(s.dirs.staging)
	if err != nil {
		return err
	}
	var errs []error
	remove := func(path string) {
		log.G(ctx).WithField("path", path).Info("remove leftover")
		errs = append(errs, os.RemoveAll(path))
	}
	for _, e := range staged {
		file, scratch := strings.CutPrefix(e.Name(), scratchPrefix)
		if scratch && s.store.hasFile(file) || inUse(e.Name()) {
			continue
		}
		remove(filepath.Join(s.dirs.staging, e.Name()))
	}
	files, err := os.ReadDir(s.dirs.layers)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, e := range files {
		// Through release, so that a Commit that begins meanwhile waits.
		if !s.layers.has(e.Name()) {
			s.layers.add(e.Name(), "")
			errs = append(errs, s.layers.release(e.Name(), func() error {
				log.G(ctx).WithField("layer", e.Name()).Info("remove layer file that no snapshot has")
				return removeFile(filepath.Join(s.dirs.layers, e.Name()))
			}))
		}
	}
	return errors.Join(errs...)
}

// hasFile says whether a snapshot has the metadata file.
func (s *store) hasFile(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.files[name] != nil
}
