// Package mounts decides what a container needs in the guest: which layers as
// disks, which files as copies, and every word of the request that creates it.
// All of it is decided from the bundle alone, before anything is done, so that
// the request which the guest's policy will judge can be tested byte for byte.
//
//	spec, rootfs ──New──> Plan {Disks, Files} ──plug, copy──> Request(sources)
package mounts

import (
	"fmt"
	"regexp"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/hypervisor"
)

// Paths in the guest. The agent and generated policies know them.
const (
	sharedDir    = "/run/kata-containers/shared/containers/"
	layersDir    = "/run/kata-containers/sandbox/layers/"
	ephemeralDir = "/run/kata-containers/sandbox/ephemeral/"
	shmDir       = "/run/kata-containers/sandbox/shm"
)

// Options says for whom a Plan is made.
type Options struct {
	SandboxID   string
	ContainerID string
	Bundle      string // path of the bundle on the host; the guest sees it as an annotation
	Type        ContainerType
	// DisableGuestSeccomp leaves the seccomp profile out.
	DisableGuestSeccomp bool
	// OCIVersion is what the guest is told of the runtime specification's version;
	// empty: DefaultOCIVersion.
	OCIVersion string
	// Sources tells what the sources of bind mounts are, as Inspect finds them.
	// One that is missing here counts as a regular file or directory.
	Sources map[string]Source
	// PodHugePages are the pod's limits for huge pages in bytes, by their size as
	// the kernel names it ("2MB"), for containers that have none of their own.
	PodHugePages map[string]uint64
	// Devices tells what the block devices of the spec are on the host, by their
	// path in the container, as InspectDevices finds them.
	Devices map[string]Device
	// NetNS is the path of the sandbox's network namespace; the pause container
	// carries it as an annotation.
	NetNS string
	// KernelModules are loaded in the guest when the sandbox is made; each is a
	// name and its parameters, separated by blanks.
	KernelModules []string
	// Random gives 16 hexadecimal digits for the name of a copy in the guest;
	// nil: from crypto/rand.
	Random func() string
}

// Plan is what a container needs in the guest.
type Plan struct {
	// Disks are the layers to plug, the top one first: the order of lowerdir. The
	// same layer has the same disk id in every container.
	Disks []hypervisor.Disk
	// ImageLayers are the layers of image volumes, some perhaps in Disks too.
	ImageLayers []hypervisor.Disk
	// Volumes are block devices of the host to plug.
	Volumes []hypervisor.Disk
	// Files are copied before the request is sent.
	Files []File
	// TerminationLog is the file of the host that takes what the container leaves
	// in its copy; empty: none.
	TerminationLog string
	// DirectVolumes are the direct-assigned volumes in use.
	DirectVolumes []DirectMount

	request *agentpb.CreateContainerRequest
	layers  []*agentpb.Storage // in the order of Disks; source still empty
	blocks  []blockMount
	raw     []rawDevice
	shares  []*agentpb.Storage
	images  []imageLayer
	stacks  []*agentpb.Storage // of images
}

// File is a file or directory of the host that the guest gets a copy of.
type File struct {
	HostPath  string
	GuestPath string
}

// New plans a container. It neither touches the host nor keeps spec. What cannot
// be carried into the guest is refused by name (ErrInvalidArgument,
// ErrNotImplemented): nothing is left out in silence.
func New(spec *specs.Spec, rootfs []Rootfs, o Options) (*Plan, error) {
	p, err := newPlan(spec, rootfs, o)
	if err != nil {
		return nil, fmt.Errorf("plan container %s: %w", o.ContainerID, err)
	}
	return p, nil
}

// idForm is what agents accept as the id of a container; the id is part of paths.
var idForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]+$`)

func newPlan(spec *specs.Spec, rootfs []Rootfs, o Options) (*Plan, error) {
	for _, id := range []string{o.ContainerID, o.SandboxID} {
		if !idForm.MatchString(id) {
			return nil, fmt.Errorf("%q is no id that a guest takes: %w", id, errdefs.ErrInvalidArgument)
		}
	}
	layers, err := parseRootfs(rootfs)
	if err != nil {
		return nil, err
	}
	oci, err := guestSpec(spec, o)
	if err != nil {
		return nil, err
	}
	volumes, err := planVolumes(spec, &o)
	if err != nil {
		return nil, err
	}
	raw, err := rawDevices(spec, &o)
	if err != nil {
		return nil, err
	}
	rootPath := sharedDir + o.ContainerID
	oci.Root = &agentpb.Root{Path: rootPath, Readonly: spec.Root != nil && spec.Root.Readonly}
	oci.Mounts = volumes.mounts

	p := &Plan{
		Files: volumes.files, TerminationLog: volumes.termination, DirectVolumes: volumes.directs,
		blocks: volumes.blocks, raw: raw, shares: volumes.shares, images: volumes.imageLayers, stacks: volumes.imageStacks,
	}
	for _, l := range p.images {
		p.ImageLayers = append(p.ImageLayers, l.disk)
	}
	for _, b := range p.blocks {
		p.addDisk(b.disk)
	}
	for _, r := range p.raw {
		p.addDisk(r.disk)
	}
	for _, l := range layers {
		p.Disks = append(p.Disks, l.disk())
		p.layers = append(p.layers, l.storage())
	}
	overlay := &agentpb.Storage{
		Driver: "overlayfs", Source: "none", Fstype: rootfs[0].Type, Options: append([]string(nil), rootfs[0].Options...), MountPoint: rootPath,
	}
	p.request = &agentpb.CreateContainerRequest{
		ContainerId: o.ContainerID, ExecId: o.ContainerID, OCI: oci,
		SandboxPidns: sharesPIDs(spec),
	}
	p.request.Storages = append(p.request.Storages, p.layers...)
	p.request.Storages = append(p.request.Storages, overlay)
	p.request.Storages = append(p.request.Storages, volumes.storages()...)
	return p, nil
}

// AllDisks lists what is to be plugged; a layer may be there twice.
func (p *Plan) AllDisks() []hypervisor.Disk {
	return slices.Concat(p.Disks, p.ImageLayers, p.Volumes)
}

// CheckDisks refuses files and devices that must not be given to a VMM.
func (p *Plan) CheckDisks() error {
	for _, d := range slices.Concat(p.Disks, p.ImageLayers) {
		if err := CheckLayerFile(d.Path); err != nil {
			return err
		}
	}
	for _, d := range p.Volumes {
		if err := CheckVolume(d.Path); err != nil {
			return err
		}
	}
	return nil
}

// Request completes the request that creates the container: sources has, for
// each disk id of the plan, where the guest will find the disk, in the form that
// its agent reads (BDF or PCI path).
func (p *Plan) Request(sources map[string]string) (*agentpb.CreateContainerRequest, error) {
	r := proto.CloneOf(p.request)
	source := func(d hypervisor.Disk) (string, error) {
		at := sources[d.ID]
		if at == "" {
			return "", fmt.Errorf("container %s: no position for disk %s (%s): %w", r.GetContainerId(), d.ID, d.Path, errdefs.ErrInvalidArgument)
		}
		return at, nil
	}
	for i, d := range p.Disks {
		at, err := source(d)
		if err != nil {
			return nil, err
		}
		r.Storages[i].Source = at // layers come first
	}
	for _, b := range p.blocks {
		at, err := source(b.disk)
		if err != nil {
			return nil, err
		}
		s := proto.CloneOf(b.storage)
		s.Source, s.MountPoint = at, mountPoint(at)
		r.Storages = append(r.Storages, s)
		r.OCI.Mounts[b.mount].Source = s.MountPoint
	}
	for _, l := range p.images {
		at, err := source(l.disk)
		if err != nil {
			return nil, err
		}
		s := proto.CloneOf(l.storage)
		s.Source = at
		r.Storages = append(r.Storages, s)
	}
	for _, s := range slices.Concat(p.stacks, p.shares) {
		r.Storages = append(r.Storages, proto.CloneOf(s))
	}
	for _, d := range p.raw {
		at, err := source(d.disk)
		if err != nil {
			return nil, err
		}
		r.Devices = append(r.Devices, &agentpb.Device{Id: at, Type: "blk", ContainerPath: d.path})
	}
	return r, nil
}
