package erofs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io/fs"
	"testing"
	"time"

	"github.com/kata-cc/kata-cc/guest/image/cpio"
)

func TestEqualFilesAreStoredOnceAndBytesRepeat(t *testing.T) {
	entries := []cpio.Entry{{Path: "d", Mode: fs.ModeDir | 0o755}}
	for i := range 500 { // more names than one block of a directory holds
		entries = append(entries, cpio.Entry{Path: fmt.Sprintf("d/%03d", i), Mode: fs.ModeSymlink | 0o777, Data: []byte("target")})
	}
	first, err := Make(entries, time.Unix(1704067200, 0))
	if err != nil {
		t.Fatal(err)
	}
	second, err := Make(entries, time.Unix(1704067200, 0))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Error("two file systems of the same entries differ")
	}
	if n := bytes.Count(first, []byte("target")); n != 1 {
		t.Errorf("the content of 500 equal links is there %d times", n)
	}
	if got := binary.LittleEndian.Uint32(first[1024:]); got != magic {
		t.Errorf("magic number is %#x", got)
	}
	if blocks := binary.LittleEndian.Uint32(first[1024+36:]); int(blocks)*blockSize != len(first) {
		t.Errorf("says %d blocks, is %d bytes", blocks, len(first))
	}
}

func TestRefusesWhatHasNoPlace(t *testing.T) {
	for name, entries := range map[string][]cpio.Entry{
		"no folder":   {{Path: "a/b", Mode: 0o644}},
		"twice":       {{Path: "a", Mode: 0o644}, {Path: "a", Mode: 0o644}},
		"below file":  {{Path: "a", Mode: 0o644}, {Path: "a/b", Mode: 0o644}},
		"outside":     {{Path: "../a", Mode: 0o644}},
		"unknown":     {{Path: "a", Mode: fs.ModeNamedPipe}},
		"root itself": {{Path: ".", Mode: fs.ModeDir}},
	} {
		if _, err := Make(entries, time.Unix(0, 0)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
