package boot

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestParseModules(t *testing.T) {
	got := parseModules("# in load order\n/lib/a.ko\n\n  /lib/b.ko  \n/lib/c.ko")
	if want := []string{"/lib/a.ko", "/lib/b.ko", "/lib/c.ko"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestModulesThatAreMissing(t *testing.T) {
	if err := loadModules(filepath.Join(t.TempDir(), "none")); err != nil {
		t.Errorf("no list: %v", err)
	}
	path := filepath.Join(t.TempDir(), "none.ko")
	if err := loadModule(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("error is %v, want one that names the module", err)
	}
}

func TestRootHashOnTheCommandLine(t *testing.T) {
	for line, want := range map[string]string{
		"quiet":                               "none",
		"quiet kata.root_hash=ab\n":           "ab",
		"kata.root_hash=ab kata.root_hash=cd": "refused",
		"kata.root_hash= quiet":               "",
		"not.kata.root_hash=ab":               "none",
	} {
		got, there, err := rootHash(line)
		if err != nil {
			got = "refused"
		} else if !there {
			got = "none"
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", line, got, want)
		}
	}
}
