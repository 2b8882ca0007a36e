package clhserver

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// Profile says how one version of Cloud Hypervisor answers where versions
// differ. Sources: vmm/src/api/http and vmm/src/config.rs of the tags named.
type Profile struct {
	Version string // as vmm.ping tells it, such as "40.0.0"

	NotCreated    int // status of "VM is not created"
	UnknownDevice int // status of an unknown id in vm.remove-device
	Duplicate     int // status of an id given twice
	Invalid       int // status of any other failed validation
	Pending       int // status of vm.resize while a removal of vCPUs is pending

	ReasonList     bool // error bodies are JSON arrays, outermost reason first (47 on)
	OmitNull       bool // unset members are left out of answers instead of null (53 on)
	BootResumes    bool // vm.boot of a paused VM resumes it (up to 52)
	HostBridges    bool // slot 0 of every segment is a host bridge, not only that of segment 0 (up to 53)
	RemoveOnce     bool // a second vm.remove-device of one id fails (53.0 only)
	Locks          bool // a disk's file is locked, shared if it is only read (46 on)
	SNPNeedsIGVM   bool // an unmeasured machine with protected memory is invalid (52 on)
	RefusesNoVCPUs bool // vm.resize to no vCPUs fails (46 on)
	SerialLimit    bool // a serial number over 20 bytes fails validation (47 on)
	ResizeDisk     bool // vm.resize-disk is there (50 on)
	MaxBody        int  // largest body of a request, in bytes
}

// profiles holds what changed, oldest first; each applies from its major
// version on.
var profiles = []struct {
	major int
	Profile
}{
	{40, Profile{
		Version: "40.0.0", NotCreated: http.StatusInternalServerError, UnknownDevice: http.StatusInternalServerError,
		Duplicate: http.StatusInternalServerError, Invalid: http.StatusInternalServerError, Pending: http.StatusInternalServerError,
		BootResumes: true, HostBridges: true, MaxBody: 51200,
	}},
	{46, Profile{
		Version: "46.0.0", NotCreated: http.StatusInternalServerError, UnknownDevice: http.StatusInternalServerError,
		Duplicate: http.StatusInternalServerError, Invalid: http.StatusInternalServerError, Pending: http.StatusTooManyRequests, RefusesNoVCPUs: true,
		BootResumes: true, HostBridges: true, Locks: true, MaxBody: 51200,
	}},
	{47, Profile{
		Version: "47.0.0", NotCreated: http.StatusInternalServerError, UnknownDevice: http.StatusInternalServerError,
		Duplicate: http.StatusInternalServerError, Invalid: http.StatusInternalServerError, Pending: http.StatusTooManyRequests, RefusesNoVCPUs: true,
		ReasonList: true, BootResumes: true, HostBridges: true, Locks: true, SerialLimit: true, MaxBody: 51200,
	}},
	{50, Profile{
		Version: "51.1.0", NotCreated: http.StatusInternalServerError, UnknownDevice: http.StatusInternalServerError,
		Duplicate: http.StatusInternalServerError, Invalid: http.StatusInternalServerError, Pending: http.StatusTooManyRequests, RefusesNoVCPUs: true,
		ReasonList: true, BootResumes: true, HostBridges: true, Locks: true, SerialLimit: true, ResizeDisk: true, MaxBody: 51200,
	}},
	{53, Profile{
		Version: "53.0.0", NotCreated: http.StatusNotFound, UnknownDevice: http.StatusInternalServerError,
		Duplicate: http.StatusInternalServerError, Invalid: http.StatusInternalServerError, Pending: http.StatusTooManyRequests, RefusesNoVCPUs: true,
		ReasonList: true, OmitNull: true, HostBridges: true, RemoveOnce: true, Locks: true, SNPNeedsIGVM: true, SerialLimit: true, ResizeDisk: true, MaxBody: 51200,
	}},
	{54, Profile{
		Version: "54.0.0", NotCreated: http.StatusNotFound, UnknownDevice: http.StatusNotFound,
		Duplicate: http.StatusConflict, Invalid: http.StatusBadRequest, Pending: http.StatusTooManyRequests, RefusesNoVCPUs: true,
		ReasonList: true, OmitNull: true, Locks: true, SNPNeedsIGVM: true, SerialLimit: true, ResizeDisk: true, MaxBody: 4 << 20,
	}},
}

// ProfileOf returns the behaviour of a version, "40" or "51.1.0". The empty
// string means 40.0.0.
func ProfileOf(version string) (Profile, error) {
	if version == "" {
		return profiles[0].Profile, nil
	}
	first, _, more := strings.Cut(version, ".")
	major, err := strconv.Atoi(first)
	if err != nil || major < profiles[0].major {
		return Profile{}, fmt.Errorf("version %q of Cloud Hypervisor: not a version from %d on: %w", version, profiles[0].major, errdefs.ErrInvalidArgument)
	}
	var found Profile
	for _, p := range profiles {
		if p.major <= major {
			found = p.Profile
		}
	}
	if more {
		found.Version = version
	} else {
		found.Version = version + ".0.0"
	}
	return found, nil
}
