package mounts

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

// volumes is what becomes of a spec's mounts.
type volumes struct {
	mounts   []*agentpb.Mount
	files    []File
	storages []*agentpb.Storage // ephemeral ones first, then local ones
}

// configVolume matches the volumes that kubelet fills itself and keeps up to
// date. Containers cannot write to them on the host either.
var configVolume = regexp.MustCompile(`/volumes/kubernetes\.io~(configmap|secret|projected|downward-api)/`)

// guestTypes are the file systems that the agent mounts by itself.
var guestTypes = []string{"proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"}

// planVolumes decides each mount of a spec, in the spec's order.
func planVolumes(from []specs.Mount, o Options) (*volumes, error) {
	v := &volumes{}
	var ephemeral, local []*agentpb.Storage
	for _, m := range from {
		refuse := func(class error, format string, args ...any) (*volumes, error) {
			return nil, fmt.Errorf("mount %s from %q: "+format+": %w", append([]any{m.Destination, m.Source}, append(args, class)...)...)
		}
		if !filepath.IsAbs(m.Destination) || slices.Contains(strings.Split(m.Destination, "/"), "..") {
			return refuse(errdefs.ErrInvalidArgument, "destination is not an absolute path without ..")
		}
		if len(m.UIDMappings)+len(m.GIDMappings) > 0 {
			return refuse(errdefs.ErrNotImplemented, "mapped ids cannot be carried into the guest")
		}
		src := o.Sources[m.Source]
		g := &agentpb.Mount{Destination: m.Destination, Source: m.Source, Type: m.Type, Options: slices.Clone(m.Options)}
		bind := isBind(m)
		if bind {
			g.Type = "bind"
		}
		emptyDir := bind && o.Type == PodContainer && filepath.Base(filepath.Dir(m.Source)) == "kubernetes.io~empty-dir"
		switch {
		case bind && (within(m.Source, "/proc") || within(m.Source, "/sys")):
		case !bind && m.Destination != "/dev/shm":
			if !slices.Contains(guestTypes, m.Type) {
				return refuse(errdefs.ErrNotImplemented, "file system type %q cannot be mounted in the guest", m.Type)
			}
		case emptyDir && src.Hugetlbfs:
			return refuse(errdefs.ErrNotImplemented, "huge pages cannot be carried into the guest")
		case emptyDir && src.Tmpfs:
			ephemeral = append(ephemeral, memoryDir(g, src))
		case m.Destination == "/dev/shm":
			g.Type, g.Source, g.Options = "bind", shmDir, []string{"rbind"}
		case emptyDir:
			local = append(local, localDir(g, o.SandboxID, src))
		case within(m.Source, "/dev"):
			// The guest's own device, of the same name.
		case src.Kind == Missing:
			return refuse(errdefs.ErrNotFound, "there is no such file on the host")
		case src.Kind == BlockDevice:
			return refuse(errdefs.ErrNotImplemented, "block volumes cannot be carried into the guest")
		case src.Kind == Special:
			return refuse(errdefs.ErrNotImplemented, "sockets, fifos and devices of the host cannot be carried into the guest")
		case src.Directory && !readOnly(m) && !configVolume.MatchString(m.Source):
			return refuse(errdefs.ErrNotImplemented, "the guest gets a copy of a directory, so what is written to it would be lost; mount it read-only")
		default:
			guest := sharedDir + o.ContainerID + "-" + o.random() + "-" + filepath.Base(m.Destination)
			v.files = append(v.files, File{HostPath: m.Source, GuestPath: guest})
			g.Source = guest
		}
		v.mounts = append(v.mounts, g)
	}
	v.storages = append(ephemeral, local...)
	return v, nil
}

// isBind reports whether a mount is a bind mount: by type, or by option as OCI
// allows it.
func isBind(m specs.Mount) bool {
	return m.Type == "bind" || (m.Type == "" || m.Type == "none") && (slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind"))
}

func readOnly(m specs.Mount) bool {
	return slices.Contains(m.Options, "ro") || slices.Contains(m.Options, "rro")
}

// within reports whether path is dir or below it.
func within(path, dir string) bool {
	path = filepath.Clean(path)
	return path == dir || strings.HasPrefix(path, dir+"/")
}

// memoryDir makes an emptyDir of medium Memory: a tmpfs of the guest.
func memoryDir(m *agentpb.Mount, src Source) *agentpb.Storage {
	s := &agentpb.Storage{
		Driver: "ephemeral", Source: "tmpfs", Fstype: "tmpfs", Options: fsgid(src),
		MountPoint: ephemeralDir + filepath.Base(m.Source),
	}
	m.Source, m.Type = s.MountPoint, "bind"
	return s
}

// localDir makes any other emptyDir: a directory of the guest. The mount's type
// is what policies expect of it.
func localDir(m *agentpb.Mount, sandbox string, src Source) *agentpb.Storage {
	s := &agentpb.Storage{
		Driver: "local", Source: "local", Fstype: "local", Options: append([]string{"mode=0777"}, fsgid(src)...),
		MountPoint: sharedDir + sandbox + "/local/" + filepath.Base(m.Source),
	}
	m.Source, m.Type = s.MountPoint, "local"
	return s
}

func fsgid(src Source) []string {
	if src.GID == 0 {
		return nil
	}
	return []string{"fsgid=" + strconv.FormatUint(uint64(src.GID), 10)}
}

func (o Options) random() string {
	if o.Random != nil {
		return o.Random()
	}
	var b [8]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
