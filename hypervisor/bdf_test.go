package hypervisor

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestBDF(t *testing.T) {
	for text, want := range map[string]BDF{
		"0000:00:05.0": {Device: 5},
		"0001:00:1f.7": {Segment: 1, Device: 31, Function: 7},
		"ABCD:EF:00.0": {Segment: 0xabcd, Bus: 0xef},
	} {
		if got, err := ParseBDF(text); err != nil || got != want {
			t.Errorf("%s is read as %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0000:00:05", "0000:00:20.0", "0000:00:05.8", "0000-00:05.0", "+000:00:05.0", "0000:00:05.0 "} {
		if got, err := ParseBDF(text); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q is read as %+v, %v", text, got, err)
		}
	}
}

func TestPCIPath(t *testing.T) {
	if got, err := (BDF{Device: 0x1b}).PCIPath(); err != nil || got != "1b" {
		t.Errorf("path %q, %v", got, err)
	}
	for _, b := range []BDF{{Segment: 1, Device: 5}, {Bus: 1, Device: 5}, {Device: 5, Function: 1}} {
		if got, err := b.PCIPath(); err == nil {
			t.Errorf("%s has the path %q", b, got)
		}
	}
}

// FuzzBDF: what is taken is written back as it was read.
func FuzzBDF(f *testing.F) {
	for _, s := range []string{"0000:00:05.0", "ffff:ff:1f.7", "0000:00:20.0", "", "0000:00:0-.0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b, err := ParseBDF(s)
		if err != nil {
			return
		}
		if b.String() != strings.ToLower(s) {
			t.Fatalf("%q became %q", s, b)
		}
		if again, err := ParseBDF(b.String()); err != nil || again != b {
			t.Fatalf("%v is read as %v, %v", b, again, err)
		}
	})
}
