package clh

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// oldestVersion is the oldest major version whose API does what is asked of it
// here. There is no newest: later ones have kept what these do.
const oldestVersion = 40

// version is the major version of a VMM, as vmm.ping tells it. Nothing is decided
// by the text of an answer.
type version int

// parseVersion reads "40.0.0", and what builds from a branch say, "v41.0.139-dirty".
func parseVersion(text string) (version, error) {
	major, _, _ := strings.Cut(strings.TrimPrefix(text, "v"), ".")
	n, err := strconv.ParseUint(major, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("the VMM says it is version %q, which is none: %w", text, errdefs.ErrFailedPrecondition)
	}
	if n < oldestVersion {
		return 0, fmt.Errorf("the VMM says it is version %q: the oldest that will do is %d: %w", text, oldestVersion, errdefs.ErrFailedPrecondition)
	}
	return version(n), nil
}

// plugsWhole says whether a disk is whole when the guest can first see it. Before,
// a guest that scans its bus for one disk can meet the next one half made.
func (v version) plugsWhole() bool { return v >= 53 }

// pending is the status that answers a resize while processors are still being let
// go of by the guest.
func (v version) pending() int {
	if v < 46 {
		return http.StatusInternalServerError
	}
	return http.StatusTooManyRequests
}

// hostBridges says whether slot 0 of every segment is a host bridge, not only
// that of segment 0.
func (v version) hostBridges() bool { return v < 54 }

// resizesDisks says whether a disk of a running machine can be given another size.
func (v version) resizesDisks() bool { return v >= 50 }
