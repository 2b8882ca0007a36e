package snapshotter

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// disk is every change that a store makes on disk, one call a step, so that tests
// can stop between any two or have one fail.
type disk interface {
	Create(path string) (diskFile, error) // fails if there is one
	Mkdir(path string, perm fs.FileMode) error
	Rename(from, to string) error
	Remove(path string) error
	RemoveAll(path string) error
	SyncDir(path string) error
}

// diskFile is a file that is being written.
type diskFile interface {
	io.Writer
	Name() string
	Sync() error
	Close() error
}

// hostDisk is the file system of this host.
type hostDisk struct{}

func (hostDisk) Create(path string) (diskFile, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

func (hostDisk) Mkdir(path string, perm fs.FileMode) error { return os.Mkdir(path, perm) }
func (hostDisk) Rename(from, to string) error              { return os.Rename(from, to) }
func (hostDisk) Remove(path string) error                  { return os.Remove(path) }
func (hostDisk) RemoveAll(path string) error               { return os.RemoveAll(path) }

func (hostDisk) SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync directory %s: %w", path, err)
	}
	return nil
}

// staged is a file in the making: it has a name in staging, and gets its own when
// it is whole and on disk. A staged file is placed or discarded.
type staged struct {
	diskFile
	area   *staging
	closed bool
	moved  bool
}

// staging makes files, and knows which of those in its directory are in the making.
type staging struct {
	disk disk
	dir  string

	mu     sync.Mutex
	last   int
	making map[string]bool // by base name
}

func newStaging(d disk, dir string) *staging {
	return &staging{disk: d, dir: dir, making: map[string]bool{}}
}

// create begins a file whose name begins with prefix.
func (s *staging) create(prefix string) (*staged, error) {
	name := s.name(prefix)
	f, err := s.disk.Create(filepath.Join(s.dir, name))
	if err != nil {
		s.forget(name)
		return nil, classified(err)
	}
	return &staged{diskFile: f, area: s}, nil
}

// name takes a name before there is a file. Start-up empties the directory, and
// nobody else works in it.
func (s *staging) name(prefix string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	name := fmt.Sprint(prefix, s.last)
	s.making[name] = true
	return name
}

// has says whether a file of the directory is in the making.
func (s *staging) has(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.making[name]
}

func (s *staging) forget(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.making, filepath.Base(path))
}

// place syncs the file and gives it its name, in the place of one that has it.
// After an error the name may be the new file's, or not.
func (f *staged) place(path string) error {
	if err := f.Sync(); err != nil {
		return classified(err)
	}
	f.closed = true
	if err := f.Close(); err != nil {
		return classified(err)
	}
	if err := f.area.disk.Rename(f.Name(), path); err != nil {
		return classified(err)
	}
	f.moved = true
	f.area.forget(f.Name())
	return classified(f.area.disk.SyncDir(filepath.Dir(path)))
}

// discard removes the file, unless it has its name.
func (f *staged) discard() error {
	var err error
	if !f.closed {
		f.closed = true
		err = f.Close()
	}
	if f.moved {
		return err
	}
	defer f.area.forget(f.Name()) // what cannot be removed is left to Cleanup
	return errors.Join(err, f.area.disk.Remove(f.Name()))
}

// write gives a file its contents, whole or not at all, whatever fails.
func (s *staging) write(path string, data []byte) (err error) {
	f, err := s.create("metadata-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.discard())
		}
	}()
	if _, err = f.Write(data); err != nil {
		return classified(err)
	}
	return f.place(path)
}

// removeFile removes a file for good; that there is none is success.
func removeFile(d disk, path string) error {
	if err := d.Remove(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return classified(err)
	}
	return classified(d.SyncDir(filepath.Dir(path)))
}

// classified gives an error of the disk the class by which a caller knows what to
// do about it.
func classified(err error) error {
	switch {
	case err == nil || errdefs.IsResourceExhausted(err) || errdefs.IsFailedPrecondition(err):
		return err
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("%w: %w", err, errdefs.ErrResourceExhausted)
	case errors.Is(err, unix.EROFS):
		return fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
	}
	return err
}
