package boot

import (
	"errors"
	"fmt"
	"os"
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
	for _, path := range parseModules(string(data)) {
		if err := loadModule(path); err != nil {
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

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("load kernel module: %w", err)
	}
	defer f.Close()
	switch err := unix.FinitModule(int(f.Fd()), "", 0); err {
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
