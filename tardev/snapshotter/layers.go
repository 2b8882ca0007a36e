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

// made is what is known of a layer file.
type made struct {
	rootHash string
	diffID   string // "" if it was made before this process began
	tarSize  int64  // of the tar in it, in bytes; 0 likewise
	size     int64  // in bytes; 0 likewise
}

type layer struct {
	made                // zero if the file is missing
	users int           // 0 if it could not be removed after the last
	busy  chan struct{} // closed when the file is neither being made nor being removed
}

// acquire counts one more user of a layer file and returns what is known of it. If
// there is no file, make makes it; found says that it was there.
func (s *layers) acquire(ctx context.Context, name string, make func() (made, error)) (m made, found bool, err error) {
	l, err := s.settled(ctx, name)
	if err != nil {
		return made{}, false, err
	}
	if l.rootHash != "" {
		l.users++
		s.mu.Unlock()
		return l.made, true, nil
	}
	l.busy = newBusy()
	s.mu.Unlock()

	m, err = make()

	s.mu.Lock()
	defer s.mu.Unlock()
	l.settle()
	if err == nil {
		l.made = m
		l.users++
	} else if l.users == 0 {
		delete(s.files, name)
	}
	return m, false, err
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
// fails the file is nobody's, and sweep may try again.
func (s *layers) release(name string, remove func() error) error {
	s.mu.Lock()
	l := s.files[name]
	if l == nil || l.users == 0 {
		s.mu.Unlock()
		return nil
	}
	l.users--
	return s.end(name, l, remove)
}

// sweep has remove remove a layer file if it is nobody's.
func (s *layers) sweep(name string, remove func() error) error {
	s.mu.Lock()
	l := s.files[name]
	if l == nil {
		l = new(layer)
		s.files[name] = l
	} else if l.busy != nil {
		s.mu.Unlock()
		return nil
	}
	return s.end(name, l, remove)
}

// end removes a layer file that has no users left; it is called with the lock
// held and returns without it. Whoever wants the file meanwhile waits.
func (s *layers) end(name string, l *layer, remove func() error) error {
	if l.users > 0 {
		s.mu.Unlock()
		return nil
	}
	l.busy = newBusy()
	s.mu.Unlock()

	err := remove()

	s.mu.Lock()
	defer s.mu.Unlock()
	l.settle()
	l.made = made{} // nobody is to rely on a file that was to go
	if err == nil {
		delete(s.files, name)
	}
	return err
}

// add counts a user at start-up, with rootHash "" if the file is missing.
func (s *layers) add(name, rootHash string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.files[name]
	if l == nil {
		l = new(layer)
		s.files[name] = l
	}
	l.users++
	if l.rootHash == "" {
		l.rootHash = rootHash
	}
}

// settle says that nobody works on the file any more; the lock is held.
func (l *layer) settle() {
	close(l.busy)
	l.busy = nil
}

func newBusy() chan struct{} { return make(chan struct{}) }
