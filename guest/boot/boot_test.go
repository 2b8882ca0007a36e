package boot

import (
	"errors"
	"os"
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

func TestProcessorThatIsEmulated(t *testing.T) {
	for text, want := range map[string]bool{
		"model\t\t: 6\nmodel name\t: QEMU TCG CPU version 2.5+\n": true, "model name\t: Intel(R) Xeon(R) Processor\n": false, "": false,
	} {
		if got := isEmulated(text); got != want {
			t.Errorf("%q: emulated is %v", text, got)
		}
	}
}

func TestModulesThatAreMissing(t *testing.T) {
	if err := loadModules(filepath.Join(t.TempDir(), "none")); err != nil {
		t.Errorf("no list: %v", err)
	}
	path := filepath.Join(t.TempDir(), "none.ko")
	if err := insertModule(path, ""); err == nil || !strings.Contains(err.Error(), path) {
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

func TestModulesOfAName(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"modules.dep":   "kernel/fs/erofs.ko: kernel/lib/crc.ko kernel/lib/base.ko\nkernel/lib/crc.ko: kernel/lib/base.ko\nkernel/drivers/dm-crypt.ko:\n",
		"modules.alias": "alias fs-erofs erofs\nalias pci:v00001AF4d*sv*sd* erofs\nalias [ bad\nnonsense\nalias lost nowhere\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	erofs := []string{"kernel/lib/base.ko", "kernel/lib/crc.ko", "kernel/fs/erofs.ko"}
	for name, want := range map[string][]string{
		"erofs": erofs, "fs-erofs": erofs, "fs_erofs": erofs, "pci:v00001AF4d00001042sv1sd2": erofs,
		"dm-crypt": {"kernel/drivers/dm-crypt.ko"}, "dm_crypt": {"kernel/drivers/dm-crypt.ko"},
		"ext": nil, "lost": nil, "": nil,
	} {
		got, err := modulesFor(dir, name)
		if !slices.Equal(got, want) || (err == nil) != (want != nil) || err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%q: got %q, %v, want %q", name, got, err, want)
		}
	}
}

func TestModprobeArguments(t *testing.T) {
	for line, want := range map[string][2]string{
		"-q -- fs-erofs": {"fs-erofs", ""}, "-v loop max_loop=8 hw=1": {"loop", "max_loop=8 hw=1"}, "-q": {}, "": {},
	} {
		if name, params := modprobeArguments(strings.Fields(line)); name != want[0] || params != want[1] {
			t.Errorf("%q: got %q with %q", line, name, params)
		}
	}
}

func FuzzResolveAlias(f *testing.F) {
	f.Add("alias fs-erofs erofs\n", "fs-erofs")
	f.Fuzz(func(t *testing.T, aliases, name string) {
		if got := resolveAlias(aliases, name); got != "" && !strings.Contains(aliases, got) {
			t.Errorf("%q resolves to %q", name, got)
		}
	})
}
