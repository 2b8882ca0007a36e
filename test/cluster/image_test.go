package cluster

import "testing"

func TestExampleImageIsTheSameEveryTime(t *testing.T) {
	var digests []string
	for range 2 {
		img, err := exampleImage([]byte("a busybox"))
		if err != nil {
			t.Fatal(err)
		}
		d, err := img.Digest()
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, d.String())
	}
	if digests[0] != digests[1] {
		t.Fatalf("two builds: %s and %s", digests[0], digests[1])
	}
}
