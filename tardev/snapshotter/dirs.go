package snapshotter

import (
	"errors"
	"fmt"
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
	var missing bool
	for _, dir := range []string{root, d.snapshots, d.layers, d.staging} {
		if _, err := os.Stat(dir); err == nil {
			continue
		}
		missing = true
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return dirs{}, classified(err)
		}
	}
	if !missing {
		return d, nil
	}
	return d, errors.Join(hostDisk{}.SyncDir(filepath.Dir(root)), hostDisk{}.SyncDir(root))
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
