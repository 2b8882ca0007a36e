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
	Repaired bool // the file was removed, so that the layer can be made again
}

// Check reads every metadata file below root and each layer file whole, against
// the root hash that its snapshot has, and tells report what is wrong. With
// repair it removes damaged layer files: their images are then to be removed and
// pulled again. Metadata that cannot be read stays. It returns the number of layer
// files it read; nobody else may have the root meanwhile.
func Check(ctx context.Context, root string, repair bool, report func(Problem)) (files int, err error) {
	d := dirsOf(root)
	lock, err := lockDir(d.staging)
	if err != nil {
		return 0, fmt.Errorf("check snapshots at %s: %w", root, err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	s := newStore(d)
	err = s.load(func(path string, err error) { report(Problem{Path: path, Err: err}) })
	if err != nil {
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
			if err := removeFile(path); err != nil {
				return len(read), fmt.Errorf("remove damaged layer file: %w", err)
			}
			p.Repaired = true
		}
		report(p)
	}
	return len(read), nil
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
