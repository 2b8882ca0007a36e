package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kata-cc/kata-cc/test/cluster"
)

const rootHashLabel = "io.katacontainers.dm-verity.root-hash"

// A machine that does not come up: the error says what, on what and why, and
// nothing stays behind.
func TestMachineThatDoesNotComeUp(t *testing.T) {
	for _, tt := range []struct {
		handler string
		wants   []string
	}{
		{noVMM, []string{"/bin/false"}},
		{noVMMEither, []string{"/bin/false"}},
		{noKernel, []string{"kernel"}},
		{panics, []string{"Kernel panic"}}, // the console's last lines
		{silentAgent, []string{"agent", "this guest has no agent"}},
	} {
		t.Run(tt.handler, func(t *testing.T) {
			c := start(t)
			sandbox, err := c.RunPod(t.Context(), cluster.Pod{Name: "fails", Handler: tt.handler})
			if err == nil {
				t.Error("the pod runs")
				if err = c.RemovePod(t.Context(), sandbox); err != nil {
					t.Error(err)
				}
				return
			}
			for _, want := range tt.wants {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %q:\n%v", want, err)
				}
			}
		})
	}
}

// A layer that is not what its root hash says, or is not there.
func TestLayerThatIsNotWhatItWas(t *testing.T) {
	for name, tt := range map[string]struct {
		damage func(t *testing.T, l layer)
		want   func(l layer) []string
	}{
		"flipped byte in the index": {
			damage: func(t *testing.T, l layer) { l.flip(t, l.dataSize(t)-4096) }, // the superblock's block
			want:   func(l layer) []string { return []string{l.name, l.rootHash} },
		},
		"other root hash": {
			damage: func(t *testing.T, l layer) { l.relabel(t, strings.Repeat("ab", 32)) },
			want:   func(l layer) []string { return []string{l.name, strings.Repeat("ab", 32)} },
		},
		"no root hash": {
			damage: func(t *testing.T, l layer) { l.relabel(t, "") },
			want:   func(layer) []string { return []string{"root hash"} },
		},
		"missing file": {
			damage: func(t *testing.T, l layer) { check(t, os.Remove(l.file)) },
			want:   func(l layer) []string { return []string{l.name} },
		},
		"cut short": {
			damage: func(t *testing.T, l layer) { check(t, os.Truncate(l.file, l.size(t)-1)) },
			want:   func(l layer) []string { return []string{l.name, "4096"} },
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := node()
			if _, ok := errors.AsType[missingError](err); ok {
				t.Skip(err)
			}
			check(t, err)
			image, l := ownImage(t, c, strings.ReplaceAll(name, " ", "-"))
			c = start(t, image)
			tt.damage(t, l)
			check(t, c.RestartSnapshotter(t.Context())) // which reads its metadata when it starts
			p := runPod(t, c, "fails")
			_, err = p.RunContainer(t.Context(), p.sandbox, p.spec, cluster.Container{Name: "main", Image: image})
			if err == nil {
				t.Fatal("the container runs")
			}
			for _, want := range tt.want(l) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %q:\n%v", want, err)
				}
			}
			// The pod goes on: a sound image runs in it.
			p.run(cluster.Container{Name: "sound"})
		})
	}
}

// A byte flipped in a file's content is found when the file is read, not before.
func TestFlippedByteInAFile(t *testing.T) {
	c, err := node()
	if _, ok := errors.AsType[missingError](err); ok {
		t.Skip(err)
	}
	check(t, err)
	image, l := ownImage(t, c, "flipped-byte-in-a-file")
	c = start(t, image)
	l.flip(t, l.find(t, precious))
	p := runPod(t, c, "flipped")
	id := p.run(cluster.Container{Name: "main", Image: image})
	_, err = c.Exec(t.Context(), id, "/bin/busybox", "md5sum", "/precious")
	if err == nil || !strings.Contains(err.Error(), "Input/output error") {
		t.Errorf("reading a changed file: %v", err)
	}
}

// precious is the content of a file in the images of these tests: more than a
// block, so that no other file shares all its blocks.
var precious = bytes.Repeat([]byte("precious"), 4096)

// layer is one layer on the host.
type layer struct{ name, file, metadata, rootHash string }

// ownImage pushes an image whose one layer no other image has, pulls it, finds
// its layer, and removes it when the test ends.
func ownImage(t *testing.T, c *cluster.Cluster, name string) (string, layer) {
	t.Helper()
	image, err := c.Push(t.Context(), name, cluster.File{Name: name, Mode: 0o644}, cluster.File{Name: "precious", Mode: 0o644, Content: precious})
	check(t, err)
	before, err := filepath.Glob(filepath.Join(c.SnapshotterRoot(), "snapshots", "*"))
	check(t, err)
	check(t, c.Pull(t.Context(), image))
	t.Cleanup(func() {
		if _, err := c.Run(context.Background(), "crictl", "rmi", image); err != nil {
			t.Error(err)
		}
	})
	after, err := filepath.Glob(filepath.Join(c.SnapshotterRoot(), "snapshots", "*"))
	check(t, err)
	for _, file := range after {
		if strings.Contains(strings.Join(before, " "), file) {
			continue
		}
		base := filepath.Base(file)
		l := layer{name: base, metadata: file, file: filepath.Join(c.SnapshotterRoot(), "layers", base)}
		l.rootHash, _ = l.labels(t)[rootHashLabel].(string)
		return image, l
	}
	t.Fatalf("pulling %s made no snapshot", image)
	return "", layer{}
}

func (l layer) size(t *testing.T) int64 {
	t.Helper()
	info, err := os.Stat(l.file)
	check(t, err)
	return info.Size()
}

// dataSize is the length of what dm-verity protects: the number of blocks is in
// the last 512 bytes of the file, after two 32-bit block sizes.
func (l layer) dataSize(t *testing.T) int64 {
	t.Helper()
	text, err := os.ReadFile(l.file)
	check(t, err)
	var blocks int64
	for i := range 8 {
		blocks |= int64(text[len(text)-512+8+i]) << (8 * i)
	}
	return blocks * 4096
}

// find is where the content is in the layer file.
func (l layer) find(t *testing.T, content []byte) int64 {
	t.Helper()
	text, err := os.ReadFile(l.file)
	check(t, err)
	at := bytes.Index(text, content)
	if at < 0 {
		t.Fatalf("%s does not hold the content", l.file)
	}
	return int64(at) + int64(len(content))/2
}

func (l layer) flip(t *testing.T, at int64) {
	t.Helper()
	f, err := os.OpenFile(l.file, os.O_RDWR, 0)
	check(t, err)
	defer f.Close()
	b := make([]byte, 1)
	_, err = f.ReadAt(b, at)
	check(t, err)
	_, err = f.WriteAt([]byte{b[0] ^ 1}, at)
	check(t, err)
}

func (l layer) document(t *testing.T) map[string]any {
	t.Helper()
	text, err := os.ReadFile(l.metadata)
	check(t, err)
	var doc map[string]any
	check(t, json.Unmarshal(text, &doc))
	return doc
}

func (l layer) labels(t *testing.T) map[string]any {
	t.Helper()
	labels, _ := l.document(t)["labels"].(map[string]any)
	return labels
}

// relabel changes the root hash that the snapshotter hands out; empty takes it
// away.
func (l layer) relabel(t *testing.T, hash string) {
	t.Helper()
	doc := l.document(t)
	labels := doc["labels"].(map[string]any)
	labels[rootHashLabel] = hash
	if hash == "" {
		delete(labels, rootHashLabel)
	}
	text, err := json.MarshalIndent(doc, "", "  ")
	check(t, err)
	check(t, os.WriteFile(l.metadata, text, 0o600))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
