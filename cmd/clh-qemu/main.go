// Command clh-qemu is Cloud Hypervisor for machines without KVM, or without
// Cloud Hypervisor: it takes the same command line and serves the same API, and
// runs the machine in QEMU.
package main

import (
	"fmt"
	"os"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/qemu"
)

// version is that of Cloud Hypervisor that it behaves like. From 53 on a client need
// not wait until the guest uses a disk before it plugs the next one; here it must.
const version = "51.1.0"

// accelVariable forces "kvm" or "tcg" where the choice by itself is wrong. It is
// no option, because a client of Cloud Hypervisor would not know it.
const accelVariable = "CLH_QEMU_ACCEL"

func main() {
	accel := qemu.Accel(os.Getenv(accelVariable))
	if accel != "" && accel != qemu.KVM && accel != qemu.TCG {
		fmt.Fprintf(os.Stderr, "clh-qemu: %s=%q is neither %s nor %s\n", accelVariable, accel, qemu.KVM, qemu.TCG)
		os.Exit(2)
	}
	newBackend := func(e clhserver.Events) (clhserver.Backend, error) {
		return qemu.New(qemu.Options{Accel: accel}, e)
	}
	profile, err := clhserver.ProfileOf(version)
	if err != nil {
		fmt.Fprintf(os.Stderr, "clh-qemu: %v\n", err)
		os.Exit(1)
	}
	os.Exit(clhserver.Main("clh-qemu", os.Args[1:], clhserver.Config{Backend: newBackend, Profile: profile}, nil))
}
