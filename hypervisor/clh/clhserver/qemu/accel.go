package qemu

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Accel is how the guest's instructions are run.
type Accel string

// The values of Accel.
const (
	KVM Accel = "kvm" // by the processor
	TCG Accel = "tcg" // by translation, some ten times slower
)

func (a Accel) arguments() []string {
	if a == KVM {
		return []string{"-accel", "kvm", "-cpu", "host"}
	}
	return []string{"-accel", "tcg,thread=multi", "-cpu", "max"}
}

// FindAccel gives KVM where it can run a Linux guest, and TCG elsewhere with the
// reason why not KVM.
func FindAccel() (Accel, error) {
	if err := tryKVM("/dev/kvm", "/proc/cpuinfo"); err != nil {
		return TCG, err
	}
	return KVM, nil
}

// The requests of KVM's system device that have no argument to speak of. Source:
// Documentation/virt/kvm/api.rst of Linux.
const (
	kvmGetAPIVersion = 0xae00
	kvmCreateVM      = 0xae01
)

// tryKVM fails where KVM is missing, not allowed, or made by software: a KVM
// without the processor's help (PVM) creates machines, but cannot boot a kernel
// that does not know of it.
func tryKVM(device, cpuinfo string) error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	version, err := unix.IoctlRetInt(int(f.Fd()), kvmGetAPIVersion)
	if err != nil {
		return fmt.Errorf("%s: ask for the API's version: %w", device, err)
	}
	if version != 12 {
		return fmt.Errorf("%s: API version %d, want 12", device, version)
	}
	machine, err := unix.IoctlRetInt(int(f.Fd()), kvmCreateVM)
	if err != nil {
		return fmt.Errorf("%s: create a machine: %w", device, err)
	}
	unix.Close(machine)
	return hardwareVirtualization(cpuinfo)
}

func hardwareVirtualization(cpuinfo string) error {
	text, err := os.ReadFile(cpuinfo)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "flags" {
			flags := strings.Fields(value)
			if slices.Contains(flags, "vmx") || slices.Contains(flags, "svm") {
				return nil
			}
			break
		}
	}
	return errors.New("the processor has neither vmx nor svm")
}
