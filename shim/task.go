package shim

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/kata-cc/kata-cc/sandbox"
)

// task is what the API says about a container beyond what the sandbox knows.
type task struct {
	id        string
	bundle    string
	stdio     stdioPaths
	container *sandbox.Container // nil while it is being created

	mu    sync.Mutex
	execs map[string]stdioPaths
}

// stdioPaths is where the streams of a process are, as containerd gives them.
type stdioPaths struct {
	stdin, stdout, stderr string
	terminal              bool
}

func (t *task) stdioOf(exec string) stdioPaths {
	if exec == "" {
		return t.stdio
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.execs[exec]
}

// maxSpec is the longest specification worth reading, in bytes.
const maxSpec = 16 << 20

// readSpec reads the specification of a bundle.
func readSpec(bundle string) (*specs.Spec, error) {
	f, err := os.Open(filepath.Join(bundle, "config.json"))
	if err != nil {
		return nil, fmt.Errorf("read bundle: %w", err)
	}
	defer f.Close()
	var spec specs.Spec
	if err := json.NewDecoder(io.LimitReader(f, maxSpec)).Decode(&spec); err != nil {
		return nil, fmt.Errorf("read bundle: %s: %w: %w", f.Name(), err, errdefs.ErrInvalidArgument)
	}
	return &spec, nil
}

// maxID is the longest id of a container: containerd allows 76 characters.
const maxID = 128

// checkID refuses what cannot be a container's id, which becomes part of paths
// on both sides.
func checkID(id string) error {
	ok := id != "" && len(id) <= maxID
	for i, c := range []byte(id) {
		alphanumeric := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		ok = ok && (alphanumeric || i > 0 && strings.IndexByte("_.-", c) >= 0)
	}
	if !ok {
		return fmt.Errorf("container id %q: want letters, digits, and after the first also '_', '.', '-': %w", id, errdefs.ErrInvalidArgument)
	}
	return nil
}
