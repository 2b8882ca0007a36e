package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/snapshots"

	"github.com/kata-cc/kata-cc/verity"
)

// Problem is one thing that Check found wrong.
type Problem struct {
	Path     string // the metadata or layer file
	Snapshot string // its key; "" if the metadata cannot be read
	Err      error
	Repaired string // what was done about it; "" for nothing
}

// damagedDir is where Check moves metadata that cannot be read, below the root.
const damagedDir = "damaged"

// Check reads every metadata file below root and each layer file whole, against
// the root hash that its snapshot has, and tells report what is wrong. With
// repair it removes damaged layer files and moves metadata that cannot be read out
// of the way, into a directory "damaged" below the root; the next start then
// removes the layer files that only that named. The images are to be removed and
// pulled again. It returns the number of layer files it read; nobody else may have
// the root meanwhile.
func Check(ctx context.Context, root string, repair bool, report func(Problem)) (files int, err error) {
	d := dirsOf(root)
	lock, err := lockDir(d.staging)
	if err != nil {
		return 0, fmt.Errorf("check snapshots at %s: %w", root, err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	s := newStore(d, hostDisk{})
	var failed []error
	err = s.load(func(path string, err error) {
		p := Problem{Path: path, Err: err}
		if repair {
			if p.Repaired, err = moveAway(s.disk, root, path); err != nil {
				failed = append(failed, err)
			}
		}
		report(p)
	})
	if err = errors.Join(append(failed, err)...); err != nil {
		return 0, fmt.Errorf("check snapshots at %s: %w", root, err)
	}
	type claim struct{ name, rootHash string }
	checked := map[claim]error{}
	read := map[string]bool{}
	for _, r := range s.records() {
		if r.Parent != "" && s.all[r.Parent] == nil {
			report(Problem{Path: s.path(s.all[r.Name]), Snapshot: r.Name, Err: fmt.Errorf("its parent %s is missing", r.Parent)})
		}
		if r.Kind != snapshots.KindCommitted {
			continue
		}
		c := claim{LayerName(r.Name), r.Labels[LabelRootHash]}
		path := filepath.Join(d.layers, c.name)
		err, known := checked[c]
		if !known {
			if err = checkLayer(ctx, path, c.rootHash); ctx.Err() != nil {
				return len(read), ctx.Err()
			}
			checked[c], read[c.name] = err, true
		}
		if err == nil {
			continue
		}
		p := Problem{Path: path, Snapshot: r.Name, Err: err}
		// Any other error, of the disk say, is no proof that the file is bad.
		if repair && (errors.Is(err, verity.ErrMismatch) || errors.Is(err, verity.ErrSuperblock)) {
			if err := removeFile(s.disk, path); err != nil {
				return len(read), fmt.Errorf("remove damaged layer file: %w", err)
			}
			p.Repaired = "removed"
		}
		report(p)
	}
	return len(read), nil
}

// moveAway moves a metadata file to where nobody reads it but people.
func moveAway(on disk, root, path string) (what string, err error) {
	dir := filepath.Join(root, damagedDir)
	if err = on.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	to := filepath.Join(dir, filepath.Base(path))
	if err = on.Rename(path, to); err != nil {
		return "", err
	}
	return "moved to " + to, errors.Join(on.SyncDir(dir), on.SyncDir(filepath.Dir(path)))
}

// checkLayer reads a layer file and compares it with its root hash.
func checkLayer(ctx context.Context, path, rootHash string) error {
	if err := verity.CheckRootHash(rootHash); err != nil {
		return fmt.Errorf("label %s: %w", LabelRootHash, err)
	}
	st, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return &fs.PathError{Op: "check", Path: path, Err: errors.New("no regular file")}
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return verity.Verify(ctx, f, st.Size(), rootHash)
}
