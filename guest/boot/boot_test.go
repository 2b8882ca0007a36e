package boot

import (
	"errors"
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

func TestModulesThatAreLoaded(t *testing.T) {
	loaded := loadedModules("dm_mod 155648 1 dm_verity, Live 0x0\nfuse 176128 0 - Live 0x0\n")
	for path, want := range map[string]bool{
		"/lib/modules/6/kernel/drivers/md/dm-mod.ko": true, "/lib/fuse.ko": true, "/lib/dm-crypt.ko": false, "": false,
	} {
		if got := loaded[moduleName(path)]; got != want {
			t.Errorf("%s: loaded is %v, want %v", path, got, want)
		}
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
		got, err := rootHash(line)
		if errors.Is(err, errNoHash) {
			got = "none"
		} else if err != nil {
			got = "refused"
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", line, got, want)
		}
	}
}
