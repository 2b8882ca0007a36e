package configuration

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// noHostData is what the attestation report shows of a pod without a policy.
var noHostData = strings.Repeat("0", 2*sha256.Size)

// HostData is what binds a pod's policy to its machine: the SHA-256 of the text,
// which the attestation report of a guest with protected memory shows. A pod
// without a policy has none, and is refused unless the configuration allows it:
// its guest would obey whatever this host says.
func (c *Config) HostData(policy string) (string, error) {
	if policy == "" {
		if !c.Runtime.AllowMissingPolicy {
			return "", fmt.Errorf("the pod has no policy (annotation %s), and a machine with protected memory needs one: %w", annotationPolicy, errdefs.ErrFailedPrecondition)
		}
		return noHostData, nil
	}
	sum := sha256.Sum256([]byte(policy))
	return hex.EncodeToString(sum[:]), nil
}

// checkConfidential says which of the keys of a machine with protected memory do
// not fit together.
func checkConfidential(h clhTable) []rule {
	return []rule{
		{h.ConfidentialGuest && !h.SEVSNPGuest, "confidential_guest = true needs sev_snp_guest = true: no other protection can be had"},
		{h.SEVSNPGuest && !h.ConfidentialGuest, "sev_snp_guest = true needs confidential_guest = true"},
		{h.ConfidentialGuest && h.IGVM == "", "igvm is missing: what a machine with protected memory is launched from"},
		{h.IGVM != "" && !h.ConfidentialGuest, "igvm needs confidential_guest = true"},
		{h.ConfidentialGuest && h.Image == "", "image is missing: the root disk of a machine with protected memory"},
		{h.ConfidentialGuest && h.Initrd != "", "initrd and igvm exclude each other: the launch image has its own ramdisk"},
	}
}

// withoutEffect lists the keys that mean nothing beside a launch image, which
// brings kernel and command line.
func withoutEffect(h clhTable, a agentTable) []string {
	if h.IGVM == "" {
		return nil
	}
	var warnings []string
	for _, k := range []struct {
		set bool
		key string
	}{
		{h.Kernel != "", "kernel"}, {h.KernelParams != "", "kernel_params"},
		{a.EnableDebug, "agent.kata.enable_debug"}, {a.DebugConsoleEnabled, "agent.kata.debug_console_enabled"},
	} {
		if k.set {
			warnings = append(warnings, k.key+" has no effect with igvm, whose file brings kernel and command line; name one for debugging instead")
		}
	}
	return warnings
}
