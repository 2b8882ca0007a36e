package clh

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/hypervisor/clh/api"
)

// A VMM drops without a word what it was not built to know, so that a machine
// which was to be protected boots as any other. Nothing but what the VMM says of
// itself and of the machine tells: its features before vm.create, and what it has
// kept, after vm.create and again after vm.boot.

// confidentialFeatures are what a build must have for SEV-SNP.
var confidentialFeatures = []string{"sev_snp", "igvm"}

const hostDataLength = 64 // hexadecimal digits

// bootLimit is how long vm.boot may take. A protected machine's memory is
// measured or accepted page by page before its first instruction, so its limit
// grows with the memory.
func bootLimit(spec hypervisor.Spec, limit time.Duration) time.Duration {
	if spec.Confidential == nil {
		return limit
	}
	return limit + time.Duration(spec.MemoryMiB)*bootTimePerMiB
}

func checkConfidential(c hypervisor.Confidential) error {
	if c.IGVM == "" {
		return fmt.Errorf("machine with protected memory: no IGVM file: %w", errdefs.ErrInvalidArgument)
	}
	if len(c.HostData) != hostDataLength || strings.Trim(c.HostData, "0123456789abcdef") != "" {
		return fmt.Errorf("machine with protected memory: host data %q are not %d hexadecimal digits: %w", c.HostData, hostDataLength, errdefs.ErrInvalidArgument)
	}
	return nil
}

// checkFeatures fails unless the VMM can protect a machine.
func checkFeatures(p api.VmmPingResponse) error {
	var has []string
	if p.Features != nil {
		has = *p.Features
	}
	for _, f := range confidentialFeatures {
		if !slices.Contains(has, f) {
			return fmt.Errorf("protected memory cannot be had: version %s of the VMM was built with the features %q, which lack %q: %w", p.Version, has, f, errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}

// checkKept fails unless the machine is the protected one that was asked for.
func checkKept(c api.VmConfig, want hypervisor.Confidential) error {
	igvm, hostData, snp := "", "", false
	if c.Payload.Igvm != nil {
		igvm = *c.Payload.Igvm
	}
	if c.Payload.HostData != nil {
		hostData = *c.Payload.HostData
	}
	if c.Platform != nil && c.Platform.SevSnp != nil {
		snp = *c.Platform.SevSnp
	}
	bad := func(what string, got, want any) error {
		return fmt.Errorf("vm.info: the machine would not be protected: %s is %v, not %v: %w", what, got, want, errdefs.ErrFailedPrecondition)
	}
	switch {
	case !snp:
		return bad("platform.sev_snp", snp, true)
	case igvm != want.IGVM:
		return bad("payload.igvm", fmt.Sprintf("%q", igvm), fmt.Sprintf("%q", want.IGVM))
	case hostData != want.HostData:
		return bad("payload.host_data", fmt.Sprintf("%q", hostData), fmt.Sprintf("%q", want.HostData))
	}
	return nil
}
