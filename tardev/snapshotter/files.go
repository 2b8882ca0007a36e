package snapshotter

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// dirs are the directories of a store.
type dirs struct{ snapshots, layers, staging string }

func dirsOf(root string) dirs {
	return dirs{
		snapshots: filepath.Join(root, "snapshots"),
		layers:    filepath.Join(root, "layers"),
		staging:   filepath.Join(root, "staging"),
	}
}

// makeDirs makes what is missing of them, for root's eyes only.
func makeDirs(root string) (dirs, error) {
	d := dirsOf(root)
	for _, dir := range []string{root, d.snapshots, d.layers, d.staging} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return dirs{}, err
		}
	}
	return d, nil
}

// lockDir takes a directory for this process, until the file is closed.
func lockDir(path string) (*os.File, error) {
	d, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = d.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another snapshotter has it: %w", errdefs.ErrUnavailable)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return d, nil
}

// writeFile gives a file its contents, whole or not at all, whatever fails.
func (d dirs) writeFile(path string, data []byte) (err error) {
	f, err := os.CreateTemp(d.staging, "metadata-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(data)
	return errors.Join(err, place(f, path, err == nil))
}

// place syncs and closes a file of staging and, if it is good, gives it its name.
func place(f *os.File, path string, good bool) error {
	if !good {
		return f.Close()
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// removeFile removes a file for good; that there is none is success.
func removeFile(path string) error {
	if err := os.Remove(path); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync directory %s: %w", path, err)
	}
	return nil
}
