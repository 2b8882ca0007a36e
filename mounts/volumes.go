package mounts

import (
	"crypto/rand"
	"encoding/hex"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

// volumes is what becomes of a spec's mounts.
type volumes struct {
	o           *Options
	mounts      []*agentpb.Mount
	files       []File
	termination string // source of the termination log

	// Storages, in the order in which they are sent.
	ephemeral, huge, locals []*agentpb.Storage
	blocks                  []blockMount
	imageLayers             []imageLayer
	imageStacks             []*agentpb.Storage
	shares                  []*agentpb.Storage
	directs                 []DirectMount
}

const (
	emptyDirParent        = "kubernetes.io~empty-dir"
	annotationTermination = "io.kubernetes.container.terminationMessagePath"
)

// kubeletLog is the form of the kubelet's termination logs.
var kubeletLog = regexp.MustCompile(`/pods/[^/]+/containers/[^/]+/[0-9a-f]{8}$`)

// planVolumes decides each mount of a spec, in the spec's order.
func planVolumes(spec *specs.Spec, o *Options) (*volumes, error) {
	v := &volumes{o: o}
	for _, from := range spec.Mounts {
		m := &mountView{Mount: from, src: o.Sources[from.Source], bind: isBind(from), o: o, spec: spec}
		r := decide(m)
		if r.outcome == Refused {
			return nil, r.refusal(m)
		}
		g := &agentpb.Mount{Destination: m.Destination, Source: m.Source, Type: m.Type, Options: slices.Clone(m.Options)}
		if m.bind {
			g.Type = "bind"
		}
		if r.plan != nil {
			r.plan(v, m, g)
		}
		v.mounts = append(v.mounts, g)
	}
	return v, nil
}

// storages lists the storages, without those of block devices.
func (v *volumes) storages() []*agentpb.Storage {
	return slices.Concat(v.ephemeral, v.huge, v.locals)
}

// copied makes a mount from a copy.
func (v *volumes) copied(m *mountView, g *agentpb.Mount) {
	g.Source = sharedDir + v.o.ContainerID + "-" + v.o.random() + "-" + filepath.Base(m.Destination)
	v.files = append(v.files, File{HostPath: m.Source, GuestPath: g.Source})
	if m.terminationLog() {
		v.termination = m.Source
	}
}

// shm makes a mount of the sandbox's shared memory.
func (v *volumes) shm(_ *mountView, g *agentpb.Mount) {
	g.Type, g.Source, g.Options = "bind", shmDir, []string{"rbind"}
}

// memory makes an emptyDir of medium Memory: a tmpfs of the guest. Its size is
// left out where a policy judges the request, since generated policies know none.
func (v *volumes) memory(m *mountView, g *agentpb.Mount) {
	name, below := m.volume()
	s := &agentpb.Storage{Driver: "ephemeral", Source: "tmpfs", Fstype: "tmpfs", MountPoint: ephemeralDir + name}
	if _, policed := m.spec.Annotations[annotationPolicy]; m.src.Size > 0 && !policed {
		s.Options = append(s.Options, "size="+strconv.FormatUint(m.src.Size, 10))
	}
	s.Options = append(s.Options, fsgid(m.src)...)
	v.ephemeral = append(v.ephemeral, s)
	g.Source, g.Type = v.below(s, below, m.src), "bind"
}

// hugePages makes an emptyDir of huge pages: the guest sets the limit aside.
func (v *volumes) hugePages(m *mountView, g *agentpb.Mount) {
	name, below := m.volume()
	size := strconv.FormatUint(m.hugeLimit(), 10)
	s := &agentpb.Storage{
		Driver: "ephemeral", Source: "nodev", Fstype: "hugetlbfs", MountPoint: ephemeralDir + name,
		Options: append([]string{"pagesize=" + strconv.FormatUint(m.src.PageSize, 10) + ",size=" + size}, fsgid(m.src)...),
	}
	v.huge = append(v.huge, s)
	g.Source, g.Type = v.below(s, below, m.src), "bind"
}

// local makes any other emptyDir: a directory of the guest. The mount's type is
// what policies expect of it.
func (v *volumes) local(m *mountView, g *agentpb.Mount) {
	name, below := m.volume()
	s := directory(sharedDir+v.o.SandboxID+"/local/"+name, m.src)
	v.locals = append(v.locals, s)
	g.Source, g.Type = v.below(s, below, m.src), "local"
}

// below is the path of a subPath in the guest. The guest's volume begins empty,
// so the directory has to be made.
func (v *volumes) below(s *agentpb.Storage, path string, src Source) string {
	if path == "" {
		return s.MountPoint
	}
	sub := directory(filepath.Join(s.MountPoint, path), src)
	v.locals = append(v.locals, sub)
	return sub.MountPoint
}

func directory(path string, src Source) *agentpb.Storage {
	return &agentpb.Storage{
		Driver: "local", Source: "local", Fstype: "local", Options: append([]string{"mode=0777"}, fsgid(src)...), MountPoint: path,
	}
}

func fsgid(src Source) []string {
	if src.GID == 0 {
		return nil
	}
	return []string{"fsgid=" + strconv.FormatUint(uint64(src.GID), 10)}
}

// hugeLimit is how much of huge pages of the source's size the container may use,
// in bytes: its own limit, which containerd leaves out unless it is told not to,
// else the size that the source was mounted with, else the pod's limit; 0: none.
func (m *mountView) hugeLimit() uint64 {
	size := pageSizeName(m.src.PageSize)
	if l := m.spec.Linux; l != nil && l.Resources != nil {
		for _, l := range l.Resources.HugepageLimits {
			if l.Pagesize == size {
				return l.Limit
			}
		}
	}
	if m.src.Size > 0 {
		return m.src.Size
	}
	return m.o.PodHugePages[size]
}

// pageSizeName is a size of huge pages as limits name it, such as 2MB or 1GB.
func pageSizeName(bytes uint64) string {
	for _, unit := range []struct {
		shift int
		name  string
	}{{30, "GB"}, {20, "MB"}, {10, "KB"}} {
		if n := bytes >> unit.shift; n > 0 {
			return strconv.FormatUint(n, 10) + unit.name
		}
	}
	return ""
}

func (o Options) random() string {
	if o.Random != nil {
		return o.Random()
	}
	var b [8]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
