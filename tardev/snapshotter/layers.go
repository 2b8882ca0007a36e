package snapshotter

import (
	"context"
	"sync"
)

// layers counts who has which layer file. The file is made by the first and
// removed by the last; whoever comes meanwhile waits.
type layers struct {
	mu    sync.Mutex
	files map[string]*layer // by name
}

type layer struct {
	rootHash string // "" if the file was found to be missing
	users    int
	// busy is closed when the file is neither being made nor being removed.
	busy chan struct{}
}

// acquire returns the root hash of a layer file and counts one more user. If
// there is no file, make makes it; found says that it was there.
func (s *layers) acquire(ctx context.Context, name string, make func() (rootHash string, err error)) (rootHash string, found bool, err error) {
	l, err := s.settled(ctx, name)
	if err != nil {
		return "", false, err
	}
	if l.rootHash != "" {
		l.users++
		s.mu.Unlock()
		return l.rootHash, true, nil
	}
	l.busy = newBusy()
	s.mu.Unlock()

	rootHash, err = make()

	s.mu.Lock()
	defer s.mu.Unlock()
	close(l.busy)
	l.busy = nil
	if err == nil {
		l.rootHash = rootHash
		l.users++
	} else if l.users == 0 {
		delete(s.files, name)
	}
	return rootHash, false, err
}

// settled returns the layer of a name, new if there is none, once nobody works on
// it. It returns with the lock held unless it fails.
func (s *layers) settled(ctx context.Context, name string) (*layer, error) {
	for {
		s.mu.Lock()
		l := s.files[name]
		if l == nil {
			l = new(layer)
			s.files[name] = l
		}
		if l.busy == nil {
			return l, nil
		}
		busy := l.busy
		s.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// release counts one user less; after the last, remove removes the file. If that
// fails the last user stays, and may release again.
func (s *layers) release(name string, remove func() error) error {
	s.mu.Lock()
	l := s.files[name]
	if l == nil {
		s.mu.Unlock()
		return nil
	}
	if l.users > 1 {
		l.users--
		s.mu.Unlock()
		return nil
	}
	l.busy = newBusy()
	s.mu.Unlock()

	err := remove()

	s.mu.Lock()
	defer s.mu.Unlock()
	close(l.busy)
	l.busy = nil
	if err == nil {
		delete(s.files, name)
	}
	return err
}

// add counts a user at start-up, with rootHash "" if the file is missing.
func (s *layers) add(name, rootHash string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.files[name]; l != nil {
		l.users++
		return
	}
	s.files[name] = &layer{rootHash: rootHash, users: 1}
}

// has says whether a layer file is known, or being made or removed.
func (s *layers) has(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.files[name] != nil
}

func newBusy() chan struct{} { return make(chan struct{}) }
