package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	"github.com/kata-cc/kata-cc/hypervisor"
)

// DefaultStateDir is where the records of the sandboxes of a host are, one
// directory each.
const DefaultStateDir = "/run/vc/sbs"

// Record is what is kept of a sandbox on disk: what another process needs to
// take its effects on the host back. It holds nothing of the guest.
type Record struct {
	ID       string             `json:"id"`
	VMM      hypervisor.Process `json:"vmm"`                  // zero: not launched yet
	NetNS    string             `json:"netns,omitempty"`      // path; it belongs to whoever made the pod
	OwnNetNS bool               `json:"netns_made,omitempty"` // except this one
	Cgroup   string             `json:"cgroup,omitempty"`
	MadeTop  string             `json:"cgroup_made,omitempty"` // topmost part of Cgroup that was made for it
}

// recordPath names the record of a sandbox, whose id is a path element.
func recordPath(stateDir, id string) (string, error) {
	if id == "" || id == "." || id == ".." || filepath.Base(id) != id {
		return "", fmt.Errorf("sandbox id %q is not a file name: %w", id, errdefs.ErrInvalidArgument)
	}
	return filepath.Join(stateDir, id, "state.json"), nil
}

// ReadRecord reads the record of a sandbox; ErrNotFound if there is none.
func ReadRecord(stateDir, id string) (*Record, error) {
	path, err := recordPath(stateDir, id)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("record of sandbox %s: %w: %w", id, err, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("record of sandbox %s: %w", id, err)
	}
	var r Record
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("record of sandbox %s: %s: %w", id, path, err)
	}
	if r.ID != id {
		return nil, fmt.Errorf("record of sandbox %s: %s is about %q: %w", id, path, r.ID, errdefs.ErrInvalidArgument)
	}
	return &r, nil
}

// write replaces the record on disk in one step: whoever reads it sees the old
// one or the new one.
func (r *Record) write(stateDir string) (err error) {
	path, err := recordPath(stateDir, r.ID)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("record of sandbox %s: %w", r.ID, err)
		}
	}()
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err = os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	temporary, err := os.CreateTemp(filepath.Dir(path), ".state.json.") // made with mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(temporary.Name()))
		}
	}()
	if _, err = temporary.Write(text); err != nil {
		return errors.Join(err, temporary.Close())
	}
	if err = temporary.Close(); err != nil {
		return err
	}
	return os.Rename(temporary.Name(), path)
}

// removeRecord removes the record and its directory; none is no error.
func removeRecord(stateDir, id string) error {
	path, err := recordPath(stateDir, id)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		return fmt.Errorf("remove the record of sandbox %s: %w", id, err)
	}
	return nil
}
