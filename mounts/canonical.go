package mounts

import (
	"regexp"
	"slices"
	"strings"
)

// The same pod makes the same request, whichever containerd describes it: what
// versions of containerd, and the hosts under them, add of their own is brought
// to one form, which generated policies accept.

// DefaultOCIVersion is what the guest is told of the runtime specification where
// the configuration does not say otherwise: containerd writes the version it was
// built with, and policies compare it.
const DefaultOCIVersion = "1.1.0"

// annotationPrefixes begin the annotations that the guest gets; policies refuse a
// container with any other that they do not know.
var annotationPrefixes = []string{"io.kubernetes.cri.", "io.kubernetes.cri-o.", "io.kubernetes.container.", "io.katacontainers."}

// annotationImage tells the image of the pause container; containerd has it from
// version 2 on, and the guest knows the layers.
const annotationImage = "io.kubernetes.cri.podsandbox.image-name"

func (o Options) ociVersion() string {
	if o.OCIVersion == "" {
		return DefaultOCIVersion
	}
	return o.OCIVersion
}

// forGuest says whether the guest gets an annotation.
func forGuest(key string) bool {
	return key != annotationPolicy && key != annotationImage &&
		slices.ContainsFunc(annotationPrefixes, func(p string) bool { return strings.HasPrefix(key, p) })
}

// throttle are paths of the host's processors that containerd masks where the
// host has them.
var throttle = regexp.MustCompile(`^/sys/devices/system/cpu/cpu\d+/thermal_throttle$`)

const (
	maskedByAll = "/proc/kcore"      // in every version's list
	maskedByNew = "/proc/interrupts" // in newer ones, before it
)

// maskedPaths is containerd's newest list for a container that has an older one.
func maskedPaths(from []string) []string {
	paths := slices.DeleteFunc(slices.Clone(from), throttle.MatchString)
	if i := slices.Index(paths, maskedByAll); i >= 0 && !slices.Contains(paths, maskedByNew) {
		paths = slices.Insert(paths, i, maskedByNew)
	}
	return paths
}
