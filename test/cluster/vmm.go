package cluster

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// VMM is the program that runs the machines, and where that runs them.
type VMM struct {
	Path     string
	Emulated bool // clh-qemu, which needs QEMU but no /dev/kvm
}

// ChooseVMM resolves the environment variable VMM: clh-qemu, cloud-hypervisor
// or the path of either. Empty chooses Cloud Hypervisor where it is installed
// and /dev/kvm works, else clh-qemu.
func (p Paths) ChooseVMM(choice string) VMM {
	ours := VMM{Path: filepath.Join(p.Bin, "clh-qemu"), Emulated: true}
	installed, err := lookPath("cloud-hypervisor", p.search())
	switch {
	case choice == "clh-qemu":
		return ours
	case choice == "" && (err != nil || !kvmWorks()):
		return ours
	case choice == "", choice == "cloud-hypervisor" && err == nil:
		return VMM{Path: installed}
	}
	return VMM{Path: choice, Emulated: strings.Contains(filepath.Base(choice), "qemu")}
}

// kvmWorks asks the kernel for the version of its KVM API: the device node may
// be there without the feature behind it.
func kvmWorks() bool {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	const getAPIVersion = 0xae00
	version, err := unix.IoctlRetInt(int(f.Fd()), getAPIVersion)
	return err == nil && version == 12
}
