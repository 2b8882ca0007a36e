package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Paths are the directories of the checkout that a cluster runs from.
type Paths struct {
	Root  string // the checkout
	Bin   string // our programs
	Tools string // the programs of others: containerd, ctr, crictl, CNI plugins
	Guest string // the images that guests boot from
}

// FindPaths looks for the checkout from the working directory upwards.
func FindPaths() (Paths, error) {
	dir, err := os.Getwd()
	if err != nil {
		return Paths{}, err
	}
	for start := dir; ; dir = filepath.Dir(dir) {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(text), "module github.com/kata-cc/kata-cc\n") {
			break
		}
		if dir == filepath.Dir(dir) {
			return Paths{}, fmt.Errorf("no checkout of kata-cc at or above %s", start)
		}
	}
	return Paths{
		Root:  dir,
		Bin:   filepath.Join(dir, "bin"),
		Tools: filepath.Join(dir, ".cache", "bin"),
		Guest: filepath.Join(dir, ".cache", "guest"),
	}, nil
}

// search is the PATH for everything a cluster runs: ours first.
func (p Paths) search() string {
	list := []string{p.Bin, p.Tools}
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
		if !slices.Contains(list, dir) {
			list = append(list, dir)
		}
	}
	return strings.Join(list, string(filepath.ListSeparator))
}

// Missing names what a cluster with this VMM needs and does not find, with the
// way to get it; empty when everything is there.
func (p Paths) Missing(v VMM) []string {
	if os.Geteuid() != 0 {
		return []string{"root"}
	}
	var missing []string
	files := map[string][]string{
		"make build": {
			filepath.Join(p.Bin, "containerd-shim-kata-cc-v2"), filepath.Join(p.Bin, "kata-runtime"),
			filepath.Join(p.Bin, "tardev-snapshotter"), filepath.Join(p.Bin, "kata-overlay"), v.Path,
		},
		"make tools": {
			filepath.Join(p.Tools, "containerd"), filepath.Join(p.Tools, "ctr"), filepath.Join(p.Tools, "crictl"),
			filepath.Join(p.Tools, "bridge"), filepath.Join(p.Tools, "host-local"),
		},
		"make guest": append(append(p.Debug().files(), p.Production().files()...), filepath.Join(p.Guest, "vmlinux")),
	}
	for _, target := range []string{"make build", "make tools", "make guest"} {
		for _, file := range files[target] {
			if _, err := os.Stat(file); err != nil {
				if rel, err := filepath.Rel(p.Root, file); err == nil && filepath.IsLocal(rel) {
					file = rel
				}
				missing = append(missing, fmt.Sprintf("%s (%s)", file, target))
			}
		}
	}
	programs := []string{"busybox", "mount.fuse3", "jq", "curl"}
	if v.Emulated {
		programs = append(programs, "qemu-system-x86_64")
	}
	for _, program := range programs {
		if _, err := lookPath(program, p.search()); err != nil {
			missing = append(missing, program+" (make deps)")
		}
	}
	return missing
}

// lookPath is exec.LookPath in a PATH of our choice.
func lookPath(program, path string) (string, error) {
	for _, dir := range filepath.SplitList(path) {
		file := filepath.Join(dir, program)
		if info, err := os.Stat(file); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			return file, nil
		}
	}
	return "", &exec.Error{Name: program, Err: exec.ErrNotFound}
}

// pause is the program of the pause image.
func (p Paths) pause() string { return filepath.Join(p.Tools, "pause") }
