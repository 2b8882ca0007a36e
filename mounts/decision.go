package mounts

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

// Outcome is what becomes of a mount.
type Outcome string

// The outcomes.
const (
	Kept      Outcome = "kept"       // the agent gets it as it is
	Copied    Outcome = "copied"     // the guest gets a copy of the source
	GuestSide Outcome = "guest-side" // the guest has a storage of its own for it
	Block     Outcome = "block"      // the source is a disk of the machine
	Refused   Outcome = "refused"
)

// mountView is a mount of a spec with what is known of it.
type mountView struct {
	specs.Mount
	src  Source
	bind bool
	o    *Options
	spec *specs.Spec
}

// rule is a row of the table by which mounts are decided: the first that applies
// does.
type rule struct {
	name    string
	applies func(m *mountView) bool
	outcome Outcome
	plan    func(v *volumes, m *mountView, g *agentpb.Mount) // nil: the mount is kept as it is
	class   error                                            // of a refusal
	reason  string                                           // likewise
}

var rules = []rule{
	{name: "destination", outcome: Refused, class: errdefs.ErrInvalidArgument,
		applies: func(m *mountView) bool {
			return !filepath.IsAbs(m.Destination) || slices.Contains(strings.Split(m.Destination, "/"), "..")
		},
		reason: "destination is not an absolute path without .."},
	{name: "mapped ids", outcome: Refused, class: errdefs.ErrNotImplemented,
		applies: func(m *mountView) bool { return len(m.UIDMappings)+len(m.GIDMappings) > 0 },
		reason:  "mapped ids cannot be carried into the guest"},
	{name: "proc and sys", outcome: Kept,
		applies: func(m *mountView) bool { return m.bind && (within(m.Source, "/proc") || within(m.Source, "/sys")) }},
	{name: "direct-assigned network share", outcome: GuestSide, plan: (*volumes).share,
		applies: func(m *mountView) bool { return m.bind && m.src.Direct != nil && m.src.Direct.FSType == "cifs" }},
	{name: "direct-assigned volume", outcome: Block, plan: (*volumes).direct,
		applies: func(m *mountView) bool { return m.bind && m.src.Direct != nil }},
	{name: "file system of the agent", outcome: Kept,
		applies: func(m *mountView) bool {
			return !m.bind && m.Destination != "/dev/shm" && slices.Contains(guestTypes, m.Type)
		}},
	{name: "other file system", outcome: Refused, class: errdefs.ErrNotImplemented,
		applies: func(m *mountView) bool { return !m.bind && m.Destination != "/dev/shm" },
		reason:  "its file system type cannot be mounted in the guest"},
	{name: "emptyDir of huge pages", outcome: GuestSide, plan: (*volumes).hugePages,
		applies: func(m *mountView) bool { return m.emptyDir() && m.src.Hugetlbfs && m.hugeLimit() > 0 }},
	{name: "emptyDir of huge pages without a limit", outcome: Refused, class: errdefs.ErrInvalidArgument,
		applies: func(m *mountView) bool { return m.emptyDir() && m.src.Hugetlbfs },
		reason:  "neither the container nor its pod has a limit for huge pages of its size, so the guest cannot know how many to set aside"},
	{name: "emptyDir of memory", outcome: GuestSide, plan: (*volumes).memory,
		applies: func(m *mountView) bool { return m.emptyDir() && m.src.Tmpfs }},
	{name: "shm", outcome: GuestSide, plan: (*volumes).shm,
		applies: func(m *mountView) bool { return m.Destination == "/dev/shm" }},
	{name: "emptyDir", outcome: GuestSide, plan: (*volumes).local,
		applies: (*mountView).emptyDir},
	{name: "block device", outcome: Block, plan: (*volumes).device,
		applies: func(m *mountView) bool { return m.src.Kind == BlockDevice }},
	{name: "file as block device", outcome: Block, plan: (*volumes).device,
		applies: func(m *mountView) bool {
			return m.src.Kind == Regular && !m.src.Directory && slices.Contains(m.Options, optionBlockFile)
		}},
	{name: "device of the guest", outcome: Kept,
		applies: func(m *mountView) bool {
			return within(m.Source, "/dev") && !within(m.Source, "/dev/shm") && (m.src.Kind == CharDevice || m.src.Kind == Regular && m.src.Directory)
		}},
	{name: "missing source", outcome: Refused, class: errdefs.ErrNotFound,
		applies: func(m *mountView) bool { return m.src.Kind == Missing },
		reason:  "there is no such file on the host"},
	{name: "special file", outcome: Refused, class: errdefs.ErrNotImplemented,
		applies: func(m *mountView) bool { return m.src.Kind != Regular },
		reason:  "sockets, fifos and devices of the host cannot be carried into the guest"},
	{name: "image volume", outcome: Block, plan: (*volumes).image,
		applies: func(m *mountView) bool { return m.src.Image != nil && m.readOnly() }},
	{name: "live volume", outcome: Copied, plan: (*volumes).copied,
		applies: func(m *mountView) bool { return m.src.Directory && m.src.Live }},
	{name: "writable directory", outcome: Refused, class: errdefs.ErrNotImplemented,
		applies: func(m *mountView) bool { return m.src.Directory && !m.readOnly() },
		reason:  "the guest gets a copy of a directory, so what is written to it would be lost; mount it read-only, or use an emptyDir or a direct-assigned volume"},
	{name: "directory", outcome: Copied, plan: (*volumes).copied,
		applies: func(m *mountView) bool { return m.src.Directory }},
	{name: "file of the pod", outcome: Copied, plan: (*volumes).copied,
		applies: func(m *mountView) bool { return m.ofThePod() }},
	{name: "writable file", outcome: Refused, class: errdefs.ErrNotImplemented,
		applies: func(m *mountView) bool { return !m.readOnly() },
		reason:  "the guest gets a copy of a file, so what is written to it would be lost; mount it read-only"},
	{name: "file", outcome: Copied, plan: (*volumes).copied,
		applies: func(*mountView) bool { return true }},
}

// guestTypes are the file systems that the agent mounts by itself.
var guestTypes = []string{"proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"}

// decide finds the rule for a mount.
func decide(m *mountView) *rule {
	for i := range rules {
		if rules[i].applies(m) {
			return &rules[i]
		}
	}
	return nil // never: the last rule applies to everything
}

// isBind reports whether a mount is a bind mount: by type, or by option as OCI
// allows it.
func isBind(m specs.Mount) bool {
	return m.Type == "bind" || (m.Type == "" || m.Type == "none") && (slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind"))
}

// readOnly reports whether a mount is read-only: the last option decides.
func (m *mountView) readOnly() bool {
	ro := false
	for _, o := range m.Options {
		switch o {
		case "ro", "rro":
			ro = true
		case "rw", "rrw":
			ro = false
		}
	}
	return ro
}

// emptyDir reports whether the source is an emptyDir, or below one. Only later
// containers of a pod have any.
func (m *mountView) emptyDir() bool {
	if !m.bind || m.o.Type != PodContainer {
		return false
	}
	name, _ := m.volume()
	return name != ""
}

// volume is the name of the emptyDir that a mount is from and the path below it.
func (m *mountView) volume() (name, below string) {
	if m.src.EmptyDir != "" {
		return m.src.EmptyDir, m.src.SubPath
	}
	if filepath.Base(filepath.Dir(m.Source)) == emptyDirParent {
		return filepath.Base(m.Source), ""
	}
	return "", ""
}

// podFiles are the files that every container of a pod has of its own and may
// write to: as on any node, nobody else reads what it writes there.
var podFiles = []string{"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}

// ofThePod reports whether a mount is one of podFiles or the termination log.
func (m *mountView) ofThePod() bool {
	return slices.Contains(podFiles, m.Destination) || m.terminationLog()
}

// terminationLog reports whether a mount is the file that a container leaves its
// last words in: by the annotation, by the usual path, or by the kubelet's
// <pod>/containers/<container>/<8 hexadecimal digits>.
func (m *mountView) terminationLog() bool {
	if path := m.spec.Annotations[annotationTermination]; path != "" {
		return m.Destination == path
	}
	return m.Destination == "/dev/termination-log" || kubeletLog.MatchString(m.Source)
}

// within reports whether path is dir or below it.
func within(path, dir string) bool {
	path = filepath.Clean(path)
	return path == dir || strings.HasPrefix(path, dir+"/")
}

// refusal is the error of a mount that is refused.
func (r *rule) refusal(m *mountView) error {
	return fmt.Errorf("mount %s from %q (type %q): %s: %w", m.Destination, m.Source, m.Type, r.reason, r.class)
}
