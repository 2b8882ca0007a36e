package boot

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// modulesRoot has a directory of modules for each kernel release.
const modulesRoot = "/lib/modules"

// Modprobe is the program modprobe(8), as far as the kernel and the agent call
// it: it loads the module of a name or of an alias after those which it needs.
// The lists are those of depmod(8), the modules uncompressed.
func Modprobe(args []string) error {
	name, params := modprobeArguments(args)
	if name == "" {
		return errors.New("modprobe: no module named")
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return fmt.Errorf("modprobe %s: %w", name, err)
	}
	dir := filepath.Join(modulesRoot, unix.ByteSliceToString(uts.Release[:]))
	files, err := modulesFor(dir, name)
	if err != nil {
		return fmt.Errorf("modprobe %s: %w", name, err)
	}
	loaded := loadedNow()
	for i, f := range files {
		if loaded[moduleName(f)] {
			continue
		}
		own := ""
		if i == len(files)-1 { // parameters are the module's own
			own = params
		}
		if err := insertModule(filepath.Join(dir, f), own); err != nil {
			return err
		}
	}
	return nil
}

// modprobeArguments skips options: the kernel calls "modprobe -q -- name".
func modprobeArguments(args []string) (name, params string) {
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		args = args[1:]
	}
	if len(args) == 0 {
		return "", ""
	}
	return args[0], strings.Join(args[1:], " ")
}

// modulesFor returns the files, below dir, of the module called name and of
// those which it needs, in the order in which they are loaded.
func modulesFor(dir, name string) ([]string, error) {
	deps, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	if err != nil {
		return nil, err
	}
	if files := withDependencies(string(deps), name); files != nil {
		return files, nil
	}
	aliases, err := os.ReadFile(filepath.Join(dir, "modules.alias"))
	if err != nil {
		return nil, err
	}
	if files := withDependencies(string(deps), resolveAlias(string(aliases), name)); files != nil {
		return files, nil
	}
	return nil, fmt.Errorf("no such module in %s: %w", dir, os.ErrNotExist)
}

// withDependencies finds a module in modules.dep: "file: needed needed…", of
// which the last one is loaded first.
func withDependencies(deps, name string) []string {
	want := strings.ReplaceAll(name, "-", "_")
	for line := range strings.Lines(deps) {
		file, needed, _ := strings.Cut(line, ":")
		if moduleName(file) != want {
			continue
		}
		files := []string{file}
		for n := range strings.FieldsSeq(needed) {
			files = append([]string{n}, files...)
		}
		return files
	}
	return nil
}

// resolveAlias finds a name in modules.alias: "alias pattern module".
func resolveAlias(aliases, name string) string {
	for line := range strings.Lines(aliases) {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != "alias" {
			continue
		}
		// "-" and "_" are one, as in names of modules.
		pattern := strings.ReplaceAll(f[1], "-", "_")
		if ok, err := path.Match(pattern, strings.ReplaceAll(name, "-", "_")); ok && err == nil {
			return f[2]
		}
	}
	return ""
}
