package devmapper

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/kata-cc/kata-cc/verity"
)

func TestRequestIsWhatTheKernelReads(t *testing.T) {
	buf, err := request("layer", flagReadOnly, &Target{Start: 0, Length: 3888, Type: "verity", Params: "1 /dev/vda"})
	if err != nil {
		t.Fatal(err)
	}
	u32 := func(at int) uint32 { return binary.NativeEndian.Uint32(buf[at:]) }
	u64 := func(at int) uint64 { return binary.NativeEndian.Uint64(buf[at:]) }
	for what, ok := range map[string]bool{
		"version 4.0.0": u32(0) == 4 && u32(4) == 0 && u32(8) == 0,
		"sizes":         u32(12) == uint32(len(buf)) && u32(16) == 312,
		"one target":    u32(20) == 1,
		"read-only":     u32(28) == 1,
		"name":          bytes.HasPrefix(buf[48:], []byte("layer\x00")),
		"target":        u64(312) == 0 && u64(320) == 3888 && bytes.HasPrefix(buf[336:], []byte("verity\x00")),
		"parameters":    bytes.HasPrefix(buf[352:], []byte("1 /dev/vda\x00")),
	} {
		if !ok {
			t.Errorf("%s: not in % x", what, buf[:400])
		}
	}
	if got := answeredTable(buf); got != (Target{0, 3888, "verity", "1 /dev/vda"}) {
		t.Errorf("the table reads as %+v", got)
	}
}

func FuzzRequest(f *testing.F) {
	f.Add("layer", "1 /dev/vda")
	f.Fuzz(func(t *testing.T, name, params string) {
		buf, err := request(name, 0, &Target{Type: "verity", Params: params})
		if err != nil {
			return
		}
		if got := cString(buf[offName : offName+nameSize]); got != name {
			t.Errorf("name %q became %q", name, got)
		}
		if len(buf) != bufferSize {
			t.Errorf("request has %d bytes", len(buf))
		}
	})
}

func TestBadNames(t *testing.T) {
	for _, name := range []string{"", "a/b", strings.Repeat("x", 128), "a\x00b"} {
		if _, err := request(name, 0, nil); !errdefs.IsInvalidArgument(err) {
			t.Errorf("name %q gives %v", name, err)
		}
	}
}

func TestOpenVerityNamesLayerAndRootHash(t *testing.T) {
	dir := t.TempDir()
	root := strings.Repeat("0", 64)
	for name, c := range map[string]struct {
		data []byte
		text string
		is   error
	}{
		"short": {make([]byte, 100), "is too small", errdefs.ErrInvalidArgument},
		"zeros": {make([]byte, 8192), "", verity.ErrSuperblock},
	} {
		disk := filepath.Join(dir, name)
		if err := os.WriteFile(disk, c.data, 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := OpenVerity(context.Background(), disk, "layer", root)
		if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), root) || !strings.Contains(err.Error(), "layer") {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}
