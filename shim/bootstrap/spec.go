package bootstrap

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
)

// maxSpec is the longest specification worth reading, in bytes.
const maxSpec = 16 << 20

// readAnnotations reads the annotations of the specification in a bundle, and
// nothing else of it.
func readAnnotations(bundle string) (map[string]string, error) {
	f, err := os.Open(filepath.Join(bundle, "config.json"))
	if err != nil {
		return nil, fmt.Errorf("read bundle: %w", err)
	}
	defer f.Close()
	var spec struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.NewDecoder(io.LimitReader(f, maxSpec)).Decode(&spec); err != nil {
		return nil, fmt.Errorf("read bundle: %s: %w: %w", f.Name(), err, errdefs.ErrInvalidArgument)
	}
	return spec.Annotations, nil
}
