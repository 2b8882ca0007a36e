package snapshotter

import (
	"bytes"
	"flag"
	"os"
	"testing"

	"github.com/containerd/containerd/snapshots"
)

var update = flag.Bool("update", false, "write the golden files")

// TestMetadataFile compares with what the example image's top layer has.
func TestMetadataFile(t *testing.T) {
	r := record{
		Kind:   snapshots.KindCommitted,
		Name:   "k8s.io/11/sha256:b7ec85bd39df687c569a301a484b47e71c45321bddfd5f41b38cbe2811ca9696",
		Parent: "k8s.io/9/sha256:d8667d954dc18da4caeb1f88f41aeada0f3856af6de9236963a2c405800b1e15",
		Labels: map[string]string{
			labelLayerDigest: "sha256:d75d7b35464283bbb95710d85de7636f7cc9e69341cc541924957c7d9c2663ea",
			labelImageRef:    "docker.io/burgerdev/example-container@sha256:cc3eca5ffd66d6d7e71db5cfd9754cd7e9a9b16627bfd285fd2f1465fb113cbe",
			labelSnapshotRef: "sha256:b7ec85bd39df687c569a301a484b47e71c45321bddfd5f41b38cbe2811ca9696",
			LabelRootHash:    goldenRoot,
		},
		Created: timestamp{1719419039, 704129318},
		Updated: timestamp{1719419039, 704129418},
	}
	got, err := r.encode()
	if err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/metadata.golden.json"
	if *update {
		if err = os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %s, error %v", got, err)
	}
	if back, err := decodeRecord(got); err != nil || back.Created.time() != r.info().Created || back.Kind != r.Kind {
		t.Errorf("read back %+v, error %v", back, err)
	}
}

// FuzzRecord: what is read is written the same.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"kind":"View","name":"a/1/b","parent":"c","labels":{"x":"<y>"},"created_at":{"secs_since_epoch":1,"nanos_since_epoch":2}}`))
	f.Add([]byte(`{"kind":"Active","name":"a","labels":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := decodeRecord(data)
		if err != nil {
			return
		}
		once, err := r.encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeRecord(once)
		if err != nil {
			t.Fatalf("%v of %s", err, once)
		}
		if twice, _ := again.encode(); !bytes.Equal(once, twice) {
			t.Errorf("%s\n%s", once, twice)
		}
	})
}
