package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kata-cc/kata-cc/configuration"
)

func machine(t *testing.T) (host, *configuration.Config) {
	t.Helper()
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "dev/net"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"dev/net/tun", "vmm", "kernel", "initrd", "clh-qemu", "qemu-system-x86_64"} {
		if err := os.WriteFile(filepath.Join(root, name), []byte("x"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	c := &configuration.Config{Path: "c.toml", Warnings: []string{"c.toml:3: x means nothing here"}}
	c.Hypervisor.Path = filepath.Join(root, "clh-qemu")
	c.Hypervisor.Kernel = filepath.Join(root, "kernel")
	c.Hypervisor.Initrd = filepath.Join(root, "initrd")
	return host{root, func() error { return errors.New("no vmx") }}, c
}

func TestCheck(t *testing.T) {
	h, c := machine(t)
	var out bytes.Buffer
	if err := check(&out, h, c, nil); err != nil {
		t.Fatalf("check: %v\n%s", err, out.String())
	}
	for _, want := range []string{"ok    VMM ", "warn  c.toml:3", "warn  no hardware virtualization: no vmx", "ok    taps", "This machine can run sandboxes."} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
}

func TestCheckNamesWhatIsMissing(t *testing.T) {
	for name, breakIt := range map[string]func(host, *configuration.Config) error{
		"FAIL  taps for pods": func(h host, _ *configuration.Config) error { return os.Remove(filepath.Join(h.root, "dev/net/tun")) },
		"cannot be run":       func(_ host, c *configuration.Config) error { return os.Chmod(c.Hypervisor.Path, 0) },
		"FAIL  qemu-system-x86_64 is neither beside": func(h host, _ *configuration.Config) error {
			return os.Remove(filepath.Join(h.root, "qemu-system-x86_64"))
		},
		"FAIL  no hardware virtualization": func(h host, c *configuration.Config) error {
			c.Hypervisor.Path = filepath.Join(h.root, "vmm")
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("PATH", "/nonexistent")
			h, c := machine(t)
			if err := breakIt(h, c); err != nil {
				t.Fatal(err)
			}
			if name == "cannot be run" && os.Geteuid() == 0 {
				c.Hypervisor.Path = h.root + "/none" // root may run what has no mode
			}
			var out bytes.Buffer
			if err := check(&out, h, c, nil); err == nil || !strings.Contains(out.String(), name) {
				t.Errorf("check: %v, want a failure that says %q:\n%s", err, name, out.String())
			}
		})
	}
	var out bytes.Buffer
	if err := check(&out, host{t.TempDir(), func() error { return nil }}, nil, errors.New("no file")); err == nil || !strings.Contains(out.String(), "FAIL  no file") {
		t.Errorf("check: %v\n%s", err, out.String())
	}
}

func TestEnvironmentIsPrinted(t *testing.T) {
	_, c := machine(t)
	e := environment(t.Context(), c)
	for asJSON, want := range map[bool]string{false: "[Hypervisor]", true: `"Hypervisor": {`} {
		var out bytes.Buffer
		if err := printEnvironment(&out, e, asJSON); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("%v, no %q in:\n%s", err, want, out.String())
		}
	}
}

func TestCommandLine(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string // in the output; empty: an error
	}{
		{[]string{"version"}, "OCI specs"},
		{[]string{"exec"}, ""},
		{[]string{"--config", "/nonexistent", "env"}, ""},
		{[]string{"--help"}, "exec"},
	} {
		var out bytes.Buffer
		err := command(os.Stdin, &out, &out).Run(t.Context(), append([]string{"kata-runtime"}, c.args...))
		if (err != nil) != (c.want == "") || !strings.Contains(out.String(), c.want) {
			t.Errorf("%v: %v\n%s", c.args, err, out.String())
		}
	}
}
