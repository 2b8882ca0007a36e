package cluster

import (
	"path/filepath"
	"strings"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/qemu"
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
	accel, _ := qemu.FindAccel()
	switch {
	case choice == "clh-qemu":
		return ours
	case choice == "" && (err != nil || accel != qemu.KVM):
		return ours
	case choice == "", choice == "cloud-hypervisor" && err == nil:
		return VMM{Path: installed}
	}
	return VMM{Path: choice, Emulated: strings.Contains(filepath.Base(choice), "qemu")}
}
