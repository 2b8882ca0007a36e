package cluster

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// busyboxScripts are commands that Debian's busybox lacks, in terms of it.
var busyboxScripts = map[string]string{
	"ipcs":  "#!/bin/sh\nexec cat /proc/sysvipc/shm\n",
	"pgrep": "#!/bin/sh\nexec pidof \"$@\"\n",
}

// Userland is the content of an image with a shell, the usual commands and the
// users root, www-data and nobody. Every command is the same file, as in the
// images that busybox's authors publish: a mount over one leaves the others.
//
// The program is that of Debian's package busybox, with the libraries that it
// needs: the shell of busybox-static runs the commands it contains without
// looking for their files, so that nobody could take one away from it.
func (p Paths) Userland(ctx context.Context) ([]File, error) {
	path := filepath.Join(p.Tools, "busybox-shared", "busybox")
	applets, err := exec.CommandContext(ctx, path, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list the applets of %s: %w", path, err)
	}
	busybox, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	files := []File{
		{Name: "bin/", Mode: 0o755},
		{Name: "bin/busybox", Mode: 0o755, Content: busybox},
		{Name: "etc/", Mode: 0o755},
		{Name: "etc/passwd", Mode: 0o644, Content: []byte("root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n")},
		{Name: "etc/group", Mode: 0o644, Content: []byte("root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n")},
		{Name: "root/", Mode: 0o700},
		{Name: "tmp/", Mode: 0o1777},
		{Name: "var/", Mode: 0o755},
		{Name: "var/run/", Mode: 0o755},
	}
	for _, applet := range strings.Fields(string(applets)) {
		files = append(files, File{Name: "bin/" + applet, Hardlink: "bin/busybox"})
	}
	for _, name := range slices.Sorted(maps.Keys(busyboxScripts)) {
		files = append(files, File{Name: "bin/" + name, Mode: 0o755, Content: []byte(busyboxScripts[name])})
	}
	libraries, err := librariesOf(path)
	return append(files, libraries...), err
}

// Where Debian has the libraries of this machine.
const (
	libraryDir = "lib/x86_64-linux-gnu/"
	loaderDir  = "lib64/"
	loader     = loaderDir + "ld-linux-x86-64.so.2"
)

// librariesOf takes the libraries that a program names, and the loader, from
// this machine. They need none but one another.
func librariesOf(program string) ([]File, error) {
	f, err := elf.Open(program)
	if err != nil {
		return nil, err
	}
	names, err := f.ImportedLibraries()
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("%s: %w", program, err)
	}
	files := []File{{Name: "lib/", Mode: 0o755}, {Name: libraryDir, Mode: 0o755}, {Name: loaderDir, Mode: 0o755}}
	paths := []string{loader}
	for _, name := range names {
		paths = append(paths, libraryDir+name)
	}
	for _, path := range paths {
		content, err := os.ReadFile("/" + path)
		if err != nil {
			return nil, fmt.Errorf("a library of %s: %w", program, err)
		}
		files = append(files, File{Name: path, Mode: 0o755, Content: content})
	}
	return files, nil
}
