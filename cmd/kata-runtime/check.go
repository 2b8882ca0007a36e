package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/configuration"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/qemu"
)

// host is the machine as check sees it.
type host struct {
	root string       // put before every path
	kvm  func() error // why the processor does not run guests
}

// thisHost is the machine that the program runs on.
func thisHost() host {
	return host{kvm: func() error { _, err := qemu.FindAccel(); return err }}
}

// finding is one thing that was looked at.
type finding struct {
	ok   bool
	must bool // nothing runs without it
	text string
}

// check prints what it finds and fails if something is missing that every
// sandbox needs. configErr is why there is no configuration.
func check(w io.Writer, h host, cfg *configuration.Config, configErr error) error {
	var findings []finding
	if configErr != nil {
		findings = append(findings, finding{false, true, configErr.Error()})
	} else {
		findings = append(findings, h.configured(cfg)...)
	}
	findings = append(findings, h.virtualization(cfg))
	findings = append(findings, h.device("/dev/net/tun", true, "taps for pods", "load the module tun"))
	missing := false
	for _, f := range findings {
		mark := "ok  "
		if !f.ok {
			mark = "warn"
		}
		if !f.ok && f.must {
			mark, missing = "FAIL", true
		}
		if _, err := fmt.Fprintf(w, "%s  %s\n", mark, f.text); err != nil {
			return err
		}
	}
	if missing {
		return errors.New("this machine cannot run sandboxes")
	}
	_, err := fmt.Fprintln(w, "This machine can run sandboxes.")
	return err
}

// configured looks at what the configuration names. Load has seen that the files
// exist.
func (h host) configured(cfg *configuration.Config) []finding {
	fs := []finding{{true, true, "configuration " + cfg.Path}}
	for _, w := range cfg.Warnings {
		fs = append(fs, finding{false, false, w})
	}
	if err := unix.Access(cfg.Hypervisor.Path, unix.X_OK); err != nil {
		fs = append(fs, finding{false, true, fmt.Sprintf("VMM %s cannot be run: %v", cfg.Hypervisor.Path, err)})
	} else {
		fs = append(fs, finding{true, true, "VMM " + cfg.Hypervisor.Path})
	}
	if isQEMU(cfg) {
		fs = append(fs, h.helper(cfg.Hypervisor.Path, "qemu-system-x86_64"))
	}
	fs = append(fs, finding{true, true, "kernel " + cfg.Hypervisor.Kernel})
	if cfg.Hypervisor.Initrd != "" {
		fs = append(fs, finding{true, true, "initrd " + cfg.Hypervisor.Initrd})
	} else {
		fs = append(fs, finding{true, true, "image " + cfg.Hypervisor.Image})
	}
	return fs
}

// helper looks for a program that a VMM needs, beside it and then in PATH.
func (h host) helper(vmm, name string) finding {
	beside := filepath.Join(filepath.Dir(vmm), name)
	if unix.Access(beside, unix.X_OK) == nil {
		return finding{true, true, name + " " + beside}
	}
	if path, err := exec.LookPath(name); err == nil {
		return finding{true, true, name + " " + path}
	}
	return finding{false, true, fmt.Sprintf("%s is neither beside %s nor in PATH", name, vmm)}
}

// virtualization says whether guests run on the processor. clh-qemu emulates
// them elsewhere; nothing else does.
func (h host) virtualization(cfg *configuration.Config) finding {
	if err := h.kvm(); err != nil {
		must := cfg != nil && !isQEMU(cfg)
		return finding{false, must, fmt.Sprintf("no hardware virtualization: %v; clh-qemu can emulate guests, slowly", err)}
	}
	return finding{true, false, "hardware virtualization"}
}

func isQEMU(cfg *configuration.Config) bool { return filepath.Base(cfg.Hypervisor.Path) == "clh-qemu" }

// device looks whether a device can be opened.
func (h host) device(path string, must bool, what, otherwise string) finding {
	f, err := os.OpenFile(filepath.Join(h.root, path), os.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return finding{false, must, fmt.Sprintf("%s: %v: %s", what, err, otherwise)}
	}
	f.Close()
	return finding{true, must, what + " " + path}
}
