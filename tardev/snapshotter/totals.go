package snapshotter

import (
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/containerd/containerd/snapshots"
)

// Conversion is a layer file that was made, or could not be.
type Conversion struct {
	Duration time.Duration
	Size     int64 // bytes of the layer file
	Err      error
}

// OnConversion has fn hear of every conversion. It is called before the
// Snapshotter is used; fn may be called by several goroutines at once.
func (s *Snapshotter) OnConversion(fn func(Conversion)) { s.converted = fn }

// Totals are what a store holds.
type Totals struct {
	Layers    int   // layer files
	Bytes     int64 // size of the layer files
	Snapshots map[snapshots.Kind]int
}

// Totals looks at the directory of layer files and counts.
func (s *Snapshotter) Totals() (Totals, error) {
	t := Totals{Snapshots: map[snapshots.Kind]int{snapshots.KindCommitted: 0, snapshots.KindActive: 0, snapshots.KindView: 0}}
	for _, r := range s.store.records() {
		t.Snapshots[r.Kind]++
	}
	entries, err := os.ReadDir(s.dirs.layers)
	if err != nil {
		return Totals{}, err
	}
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // it went meanwhile
		}
		if err != nil {
			return Totals{}, err
		}
		t.Layers++
		t.Bytes += info.Size()
	}
	return t, nil
}
