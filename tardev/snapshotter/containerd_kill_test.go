package snapshotter

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
)

// TestContainerdKilledDaemon: the daemon is killed while it converts a layer for a
// real containerd. Another is started, the same import succeeds, and nothing of
// the first is left.
func TestContainerdKilledDaemon(t *testing.T) {
	noise := make([]byte, 64<<20) // which takes a while to hash
	_, _ = rand.NewChaCha8([32]byte{3}).Read(noise)
	tars := [][]byte{baseTar(t), tarOf(t, "noise", noise)}
	for name, differ := range map[string]bool{"differ": true, "scratch directory": false} {
		t.Run(name, func(t *testing.T) {
			const ref = "example.com/large:1"
			n := startNode(t, differ)
			archive := n.archive(ref, tars)
			args := []string{"-n", "k8s.io", "images", "import", "--local", "--snapshotter", "tardev", archive}
			imported := make(chan error, 1)
			go func() {
				_, err := n.try(args...)
				imported <- err
			}()
			n.wait("conversion of the second layer", func() error {
				for _, e := range n.entries("staging") {
					if strings.HasPrefix(e, "layer-") && len(n.entries("layers")) == 1 {
						return nil
					}
				}
				return fmt.Errorf("staging has %q", n.entries("staging"))
			})
			if err := n.snapshotter.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = n.snapshotter.Wait()
			if err := <-imported; err == nil {
				t.Error("the import succeeded without the daemon")
			}

			n.startSnapshotter()
			n.wait("the second import", func() error {
				if out, err := n.try(args...); err != nil {
					return fmt.Errorf("%w: %s", err, out)
				}
				return nil
			})
			// Whether containerd collected what the first import had committed is a
			// matter of time; if it tried to without the daemon, the snapshot is there
			// beside its successor until the next collection. Both have one file.
			layers := map[string]bool{}
			for snapshot, r := range n.committed() {
				layer, _, _ := strings.Cut(snapshot, ".")
				layers[layer] = true
				checkLayerFile(t, filepath.Join(n.dir, "tardev/layers", layer), r.Labels[LabelRootHash])
			}
			if len(layers) != len(tars) {
				t.Errorf("committed %v", layers)
			}
			n.ctr("-n", "k8s.io", "images", "rm", "--sync", ref)
			for _, dir := range []string{"snapshots", "layers", "staging"} {
				if left := n.entries(dir); len(left) != 0 {
					t.Errorf("left in %s: %q", dir, left)
				}
			}
		})
	}
}
