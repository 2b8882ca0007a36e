package resident

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

const smaps = `00400000-00a84000 r-xp 00000000 fe:00 917 /usr/bin/the shim
Size:               6672 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
00a84000-00a90000 r--p 00684000 fe:00 917 /usr/bin/the shim
Size:                 48 kB
Anonymous:             8 kB
00a90000-00b00000 rw-p 00690000 fe:00 917 /usr/bin/the shim
Anonymous:             0 kB
00b00000-00b10000 r--p 00700000 fe:00 917 /usr/bin/the shim
Anonymous:             0 kB
7f0000000000-7f0000010000 r-xp 00000000 fe:00 918 /lib/other.so
Anonymous:             0 kB
c000000000-c000400000 rw-p 00000000 00:00 0
Anonymous:          4096 kB
`

func TestOnlyWhatEqualsTheFileIsDropped(t *testing.T) {
	got, err := clean(strings.NewReader(smaps), "/usr/bin/the shim")
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0] != (mapping{0x400000, 0xa84000}) || got[1] != (mapping{0xb00000, 0xb10000}) {
		t.Errorf("mappings %x", got)
	}
	for _, bad := range []string{"nonsense\n", "12-zz r-xp 0 0:0 0 /x\n", "20-10 r-xp 0 0:0 0 /x\n"} {
		if got, err := clean(strings.NewReader(bad), "/x"); err == nil {
			t.Errorf("%q gave %x", bad, got)
		}
	}
}

// fileMemory is how much of files the process has in memory, in KiB.
func fileMemory(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "RssFile:"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Skip("needs a kernel that tells RssFile")
	return 0
}

func TestRelease(t *testing.T) {
	before := fileMemory(t)
	if err := Release(); err != nil {
		t.Fatal(err)
	}
	if after := fileMemory(t); after >= before {
		t.Errorf("%d KiB of files in memory, there were %d", after, before)
	}
}

func FuzzClean(f *testing.F) {
	f.Add(smaps, "/usr/bin/the shim")
	f.Fuzz(func(t *testing.T, text, file string) {
		got, err := clean(strings.NewReader(text), file)
		if err != nil {
			return
		}
		for _, m := range got {
			if m.end < m.start {
				t.Errorf("range %x", m)
			}
		}
		if len(got) > strings.Count(text, "Anonymous:") || len(got) > 0 && !strings.Contains(text, file) {
			t.Errorf("%d mappings of %q in %q", len(got), file, text)
		}
	})
}
