package sandbox

import (
	"maps"
	"os"
	"path/filepath"
	"testing"
)

func TestHugePagesOfAPod(t *testing.T) {
	v1, v2 := t.TempDir(), t.TempDir()
	for file, text := range map[string]string{
		v2 + "/pod/hugetlb.2MB.max":             "8388608\n",
		v2 + "/pod/hugetlb.2MB.rsvd.max":        "4096\n", // of reservations
		v2 + "/pod/hugetlb.1GB.max":             "max\n",
		v2 + "/pod/hugetlb.32MB.max":            "9223372036854771712\n",
		v2 + "/pod/memory.max":                  "1048576\n",
		v2 + "/other/hugetlb.2MB.max":           "0\n",
		v1 + "/pod/hugetlb.64KB.limit_in_bytes": "65536\n",
	} {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]map[string]uint64{
		"/pod":   {"2MB": 8 << 20, "64KB": 64 << 10},
		"/other": {"2MB": 0},
		"/none":  {},
	} {
		got, err := hugePageLimits([]string{v1, v2}, path)
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("%s has the limits %v, %v; want %v", path, got, err, want)
		}
	}
}
