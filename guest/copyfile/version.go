package copyfile

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"
)

// versionLink is the link by which a Kubernetes volume names its present
// version, a directory beside it whose name begins with versionPrefix. Names of
// the volume's files are links through it.
const (
	versionLink   = "..data"
	versionPrefix = ".."
)

// tidy removes what a volume has no more since its link leads to the version
// current: other versions, whole or in part, and links to files that are not in
// this one. The protocol has no call to delete them, and they lie in guest memory.
// The volume is at root, and dir below [Files.dir].
func (f *Files) tidy(root *os.Root, dir, current string) error {
	if !isVersion(current) {
		return nil
	}
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	entries, err := d.ReadDir(-1)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		name := e.Name()
		switch {
		case e.IsDir() && isVersion(e.Name()) && e.Name() != current:
			f.forget(path.Join(dir, name))
			errs = append(errs, root.RemoveAll(name))
		case e.Type() == fs.ModeSymlink && leadsNowhere(root, name):
			errs = append(errs, remove(root, name))
		}
	}
	return errors.Join(errs...)
}

func isVersion(name string) bool {
	return len(name) > len(versionPrefix) && strings.HasPrefix(name, versionPrefix) && name != versionLink && !strings.Contains(name, "/")
}

// leadsNowhere says whether a link through the version's link has no file.
func leadsNowhere(root *os.Root, name string) bool {
	target, err := root.Readlink(name)
	if err != nil || !strings.HasPrefix(target, versionLink+"/") {
		return false
	}
	_, err = root.Stat(name)
	return errors.Is(err, fs.ErrNotExist)
}

// forget gives up the files below a directory of which pieces are missing.
func (f *Files) forget(dir string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, p := range f.pending {
		if strings.HasPrefix(name, dir+"/") && !p.busy {
			delete(f.pending, name)
		}
	}
}
