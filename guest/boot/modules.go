package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// moduleList names the kernel modules to load, one absolute path a line, each
// behind those it needs.
const moduleList = "/etc/kata-agent/modules"

// loadModules loads what the list names; a guest without the list needs none.
// A module that is loaded, built in, or has nothing to drive is success.
func loadModules(list string) error {
	data, err := os.ReadFile(list)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the list of kernel modules: %w", err)
	}
	// Handed over once more, a module would be read and its signature checked
	// before the kernel sees that it has it. The first program finds no /proc.
	loaded := loadedNow()
	cpus, _ := os.ReadFile("/proc/cpuinfo")
	emulated := isEmulated(string(cpus))
	for _, path := range parseModules(string(data)) {
		name := moduleName(path)
		if loaded[name] || emulated && name == vectorSHA256 {
			continue
		}
		if err := insertModule(path, ""); err != nil {
			return err
		}
	}
	return nil
}

// parseModules reads the list; empty lines and such as begin with # are skipped.
func parseModules(list string) []string {
	var paths []string
	for line := range strings.Lines(list) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			paths = append(paths, line)
		}
	}
	return paths
}

// vectorSHA256 is SHA-256 by vector instructions. Emulated one by one, they are
// slower than the kernel's plain code, by which a guest has read its root disk
// 0.3 s earlier.
const vectorSHA256 = "sha256_ssse3"

// isEmulated says whether /proc/cpuinfo names a processor that QEMU emulates.
func isEmulated(cpuinfo string) bool { return strings.Contains(cpuinfo, "QEMU TCG CPU") }

func loadedNow() map[string]bool {
	list, _ := os.ReadFile("/proc/modules")
	return loadedModules(string(list))
}

// loadedModules reads /proc/modules: a line begins with a module's name.
func loadedModules(list string) map[string]bool {
	loaded := map[string]bool{}
	for line := range strings.Lines(list) {
		name, _, _ := strings.Cut(line, " ")
		loaded[name] = true
	}
	return loaded
}

// moduleName is what the kernel calls the module in a file: "dm-mod.ko" is dm_mod.
func moduleName(path string) string {
	return strings.ReplaceAll(strings.TrimSuffix(filepath.Base(path), ".ko"), "-", "_")
}

func insertModule(path, params string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("load kernel module: %w", err)
	}
	defer f.Close()
	switch err := unix.FinitModule(int(f.Fd()), params, 0); err {
	case nil, unix.EEXIST:
		return nil
	case unix.ENODEV:
		// An accelerator (sha256-ssse3) on a processor without the instructions:
		// the kernel's own code does the work.
		return nil
	default:
		return fmt.Errorf("load kernel module %s: %w", path, err)
	}
}
