package copyfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"
)

// copyName is what follows the container in the name of what the host copies for
// a mount: <container>-<16 hexadecimal digits>-<name>.
var copyName = regexp.MustCompile(`^-[0-9a-f]{16}-`)

// RemoveCopies removes what was copied for a container, which is gone: it lies
// in guest memory, and the protocol has no call to delete it.
func (f *Files) RemoveCopies(container string) error {
	root, err := os.OpenRoot(f.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
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
		if rest, ok := strings.CutPrefix(e.Name(), container); ok && copyName.MatchString(rest) {
			f.forget(e.Name())
			errs = append(errs, root.RemoveAll(e.Name()))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove the copies of container %s: %w", container, err)
	}
	return nil
}
