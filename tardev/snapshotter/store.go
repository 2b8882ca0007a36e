package snapshotter

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/errdefs"
)

// store is every snapshot in memory, and its metadata file on disk. Its lock
// guards fields only; an operation that takes longer marks the snapshots that it
// changes as busy, and others that would change them fail with ErrUnavailable.
type store struct {
	dirs    dirs
	disk    disk
	staging *staging

	mu    sync.Mutex
	all   map[string]*snapshot // by key
	files map[string]*snapshot // by the name of the metadata file; unreadable for one that cannot be read
}

// unreadable has the name of a metadata file that cannot be read, so that no new
// snapshot takes it.
var unreadable = new(snapshot)

// snapshot is one snapshot. Until it is shown only its key is taken.
type snapshot struct {
	record   record // replaced whole; its labels never change
	file     string // name of the metadata file, and of the scratch directory
	shown    bool
	busy     chan struct{} // closed when it no longer is; nil if it is not
	leaving  bool          // busy being removed
	children int           // snapshots, shown or not, that have it as their parent
	applied  applied
}

// applied is the layer file that was made for a layer before its Commit; the
// snapshot is one of the file's users. Only who has made the snapshot busy reads
// or changes it.
type applied struct {
	made
	layer string // name of the layer file; "" for none
}

func newStore(d dirs, on disk) *store {
	return &store{
		dirs: d, disk: on, staging: newStaging(on, d.staging),
		all: map[string]*snapshot{}, files: map[string]*snapshot{},
	}
}

// get returns the record of a snapshot.
func (s *store) get(key string) (record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sn, err := s.find(key)
	if err != nil {
		return record{}, err
	}
	return sn.record, nil
}

// find returns the snapshot of a key; the lock is held.
func (s *store) find(key string) (*snapshot, error) {
	sn := s.all[key]
	if sn == nil || !sn.shown {
		return nil, fmt.Errorf("snapshot %s: %w", key, errdefs.ErrNotFound)
	}
	return sn, nil
}

// records returns those of all snapshots.
func (s *store) records() []record {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]record, 0, len(s.all))
	for _, sn := range s.all {
		if sn.shown {
			list = append(list, sn.record)
		}
	}
	return list
}

// reserve takes a key for a new snapshot with a parent, which must be committed.
// The snapshot is to be shown or dropped.
func (s *store) reserve(key, parent string) (*snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all[key] != nil {
		return nil, fmt.Errorf("snapshot %s: %w", key, errdefs.ErrAlreadyExists)
	}
	if parent != "" {
		p, err := s.find(parent)
		if err != nil {
			return nil, fmt.Errorf("parent of %s: %w", key, err)
		}
		if p.record.Kind != snapshots.KindCommitted || p.leaving {
			return nil, fmt.Errorf("parent %s of %s is not committed: %w", parent, key, errdefs.ErrFailedPrecondition)
		}
		p.children++
	}
	sn := &snapshot{busy: newBusy()}
	sn.record.Name, sn.record.Parent = key, parent
	s.enter(sn, LayerName(key))
	return sn, nil
}

// enter gives a snapshot the name of its file; the lock is held. A name that
// another namespace's snapshot has is made longer.
func (s *store) enter(sn *snapshot, file string) {
	if s.files[file] != nil {
		file = longName(file, sn.record.Name)
	}
	sn.file = file
	s.files[file] = sn
	s.all[sn.record.Name] = sn
}

func longName(file, key string) string {
	return fmt.Sprintf("%s.%x", file, sha256.Sum256([]byte(key)))
}

// show writes the metadata of a busy snapshot and lets everyone see it.
func (s *store) show(sn *snapshot, r record) error {
	data, err := r.encode()
	if err != nil {
		return err
	}
	if err := s.staging.write(s.path(sn), data); err != nil {
		if !sn.shown { // it may have its name already
			err = errors.Join(err, removeFile(s.disk, s.path(sn)))
		}
		return fmt.Errorf("write metadata of snapshot %s: %w", r.Name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sn.record, sn.shown = r, true
	sn.settle()
	return nil
}

// claim makes a snapshot busy if check has nothing against it.
func (s *store) claim(key string, check func(*snapshot) error) (*snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sn, err := s.find(key)
	if err != nil {
		return nil, err
	}
	if sn.busy != nil {
		return nil, busyError{key, sn.busy}
	}
	if err := check(sn); err != nil {
		return nil, err
	}
	sn.busy = newBusy()
	return sn, nil
}

// claimWaiting is claim for what is worth some patience.
func (s *store) claimWaiting(ctx context.Context, key string, check func(*snapshot) error) (*snapshot, error) {
	patience := time.NewTimer(busyTimeout)
	defer patience.Stop()
	for {
		sn, err := s.claim(key, check)
		var busy busyError
		if !errors.As(err, &busy) {
			return sn, err
		}
		select {
		case <-busy.done:
		case <-patience.C:
			return nil, err
		case <-ctx.Done():
			return nil, errors.Join(err, context.Cause(ctx))
		}
	}
}

// busyError says that somebody else changes a snapshot.
type busyError struct {
	key  string
	done <-chan struct{}
}

func (e busyError) Error() string { return fmt.Sprintf("snapshot %s is being changed", e.key) }
func (busyError) Unwrap() error   { return errdefs.ErrUnavailable }

// settle says that a snapshot is no longer busy; the lock is held.
func (sn *snapshot) settle() {
	close(sn.busy)
	sn.busy, sn.leaving = nil, false
}

// free ends what claim began.
func (s *store) free(sn *snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sn.settle()
}

// drop forgets a busy snapshot.
func (s *store) drop(sn *snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sn.settle()
	delete(s.all, sn.record.Name)
	delete(s.files, sn.file)
	if p := s.all[sn.record.Parent]; p != nil {
		p.children--
	}
}

// path returns the metadata file, scratch the scratch directory of a snapshot.
func (s *store) path(sn *snapshot) string { return filepath.Join(s.dirs.snapshots, sn.file) }
func (s *store) scratch(sn *snapshot) string {
	return filepath.Join(s.dirs.staging, scratchPrefix+sn.file)
}

// scratchPrefix begins the names of scratch directories in staging.
const scratchPrefix = "scratch-"

// load reads all metadata files. A file that cannot be read is not lost on the
// quiet: problem hears of it, and the file stays.
func (s *store) load(problem func(path string, err error)) error {
	entries, err := os.ReadDir(s.dirs.snapshots)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(s.dirs.snapshots, e.Name())
		r, err := s.read(path)
		if err != nil {
			s.files[e.Name()] = unreadable
			problem(path, err)
			continue
		}
		s.enter(&snapshot{record: *r, shown: true}, e.Name())
	}
	for _, sn := range s.all {
		if p := s.all[sn.record.Parent]; p != nil {
			p.children++
		}
	}
	return nil
}

// read reads the metadata file of a snapshot that is not known yet.
func (s *store) read(path string) (*record, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r, err := decodeRecord(data)
	if err != nil {
		return nil, err
	}
	if other := s.all[r.Name]; other != nil {
		return nil, fmt.Errorf("snapshot %s stands in %s, too", r.Name, other.file)
	}
	// A name that was changed by damage would make an orphan of the layer file.
	short := LayerName(r.Name)
	if file := filepath.Base(path); file != short && file != longName(short, r.Name) {
		return nil, fmt.Errorf("snapshot metadata of %s, which would be in a file %s", r.Name, short)
	}
	return r, nil
}

// doubtful returns the layer files that metadata which cannot be read may name.
// If all is true it may be any.
func (s *store) doubtful() (names []string, all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for file, sn := range s.files {
		if sn != unreadable {
			continue
		}
		name, _, _ := strings.Cut(file, ".")
		if raw, err := hex.DecodeString(name); err != nil || len(raw) != sha256.Size {
			all = true
			continue
		}
		names = append(names, name)
	}
	return names, all
}
