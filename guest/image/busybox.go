package image

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"github.com/kata-cc/kata-cc/guest/image/debian"
)

// noApplets are busybox applets that would take the agent's place.
var noApplets = map[string]bool{"init": true, "linuxrc": true}

// addShell puts what people use at the debug console into the tree.
func (t tree) addShell(ctx context.Context, files map[string]debian.File) error {
	busybox, err := pick(files, "/bin/busybox", "/usr/bin/busybox")
	if err != nil {
		return fmt.Errorf("package %s: %w", busyboxPackage, err)
	}
	if err = t.file("/etc/profile", 0o644, []byte("export PATH=/usr/sbin:/usr/bin:/sbin:/bin\n"), ""); err != nil {
		return err
	}
	return t.addBusybox(ctx, busybox)
}

// addBusybox puts busybox into the tree, with a link for each of its applets
// where busybox itself would install it. Only busybox knows its applets, so it
// is run once.
func (t tree) addBusybox(ctx context.Context, f debian.File) error {
	const place = "/bin/busybox"
	if err := t.file(place, 0o755, f.Data, origin(f.Package)); err != nil {
		return err
	}
	applets, err := applets(ctx, f.Data)
	if err != nil {
		return fmt.Errorf("list the applets of %s: %w", origin(f.Package), err)
	}
	for _, applet := range applets {
		name := path.Clean("/" + applet)
		if _, taken := t[name]; taken || noApplets[path.Base(name)] {
			continue
		}
		if err := t.link(name, place); err != nil {
			return err
		}
	}
	return nil
}

// applets returns the paths of a busybox's applets ("bin/sh").
func applets(ctx context.Context, busybox []byte) ([]string, error) {
	dir, err := os.MkdirTemp("", "busybox-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	file := filepath.Join(dir, "busybox")
	if err = os.WriteFile(file, busybox, 0o700); err != nil {
		return nil, err
	}
	out, err := exec.CommandContext(ctx, file, "--list-full").Output()
	if err != nil {
		return nil, fmt.Errorf("busybox --list-full: %w", err)
	}
	return strings.Fields(string(out)), nil
}
