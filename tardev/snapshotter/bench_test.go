package snapshotter

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/containerd/containerd/snapshots"
	"github.com/opencontainers/go-digest"
)

const benchSnapshots = 10_000

// fillStore writes the metadata of as many committed layers, and their files.
func fillStore(b *testing.B, root string) (keys []string) {
	b.Helper()
	d, err := makeDirs(root)
	if err != nil {
		b.Fatal(err)
	}
	for i := range benchSnapshots {
		key := fmt.Sprintf("k8s.io/%d/%s", i, digest.FromString(fmt.Sprint(i)))
		r := record{Kind: snapshots.KindCommitted, Name: key, Labels: map[string]string{LabelRootHash: goldenRoot}}
		data, err := r.encode()
		if err != nil {
			b.Fatal(err)
		}
		for dir, data := range map[string][]byte{d.snapshots: data, d.layers: nil} {
			if err = os.WriteFile(filepath.Join(dir, LayerName(key)), data, 0o600); err != nil {
				b.Fatal(err)
			}
		}
		keys = append(keys, key)
	}
	return keys
}

// BenchmarkStart opens a store of 10,000 snapshots.
func BenchmarkStart(b *testing.B) {
	root := b.TempDir()
	fillStore(b, root)
	c := newContent(b)
	for b.Loop() {
		s, err := New(b.Context(), root, c)
		if err != nil {
			b.Fatal(err)
		}
		if err = s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkStat looks up one of 10,000 snapshots; p99-ns is the slowest but one
// in a hundred.
func BenchmarkStat(b *testing.B) {
	root := b.TempDir()
	keys := fillStore(b, root)
	s := newSnapshotter(b, root, newContent(b))
	var times []time.Duration
	for i := 0; b.Loop(); i++ {
		start := time.Now()
		if _, err := s.Stat(b.Context(), keys[i%len(keys)]); err != nil {
			b.Fatal(err)
		}
		times = append(times, time.Since(start))
	}
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)*99/100]), "p99-ns")
}
