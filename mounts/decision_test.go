package mounts

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

// decision is a mount and what the table is to make of it.
type decision struct {
	name        string // of the golden file's entry
	rule        string // that decides
	mount       specs.Mount
	src         Source
	kind        ContainerType // empty: PodContainer
	annotations map[string]string
	limits      []specs.LinuxHugepageLimit
	pod         map[string]uint64 // the pod's limits for huge pages
}

const (
	podDir   = "/var/lib/kubelet/pods/5c0e9a2e-1d37-4f43-a0a2-8f6c2d9f6b11/"
	emptyOne = podDir + "volumes/kubernetes.io~empty-dir/v"
	huge2M   = 2 << 20
)

func bindMount(destination, source string, options ...string) specs.Mount {
	return specs.Mount{Destination: destination, Source: source, Type: "bind", Options: append([]string{"rbind", "rprivate"}, options...)}
}

func twoLayers(below string) *Image {
	return &Image{Dir: "/layers", Below: below, Layers: []ImageLayer{
		{strings.Repeat("a", 64), strings.Repeat("1", 64)}, {strings.Repeat("b", 64), strings.Repeat("2", 64)},
	}}
}

func decisions() []decision {
	dir := Source{Directory: true}
	disk := Source{Kind: BlockDevice, Device: Device{Node: "/dev/loop3", Identity: "device 7:3"}}
	direct := func(fstype string, metadata map[string]string, options ...string) Source {
		return Source{Device: disk.Device, Direct: &DirectVolume{Type: "block", Device: "/dev/loop3", FSType: fstype, Metadata: metadata, Options: options}}
	}
	memory := Source{Directory: true, Tmpfs: true, Size: 64 << 20}
	huge := Source{Directory: true, Hugetlbfs: true, PageSize: huge2M}
	limit := []specs.LinuxHugepageLimit{{Pagesize: "1GB", Limit: 1 << 30}, {Pagesize: "2MB", Limit: 8 << 20}}
	log := podDir + "containers/main/0a1b2c3d"
	return []decision{
		{name: "relative destination", rule: "destination", mount: bindMount("etc", "/x")},
		{name: "dots", rule: "destination", mount: bindMount("/a/../b", "/x")},
		{name: "mapped ids", rule: "mapped ids", mount: specs.Mount{Destination: "/d", Source: "/x", Type: "bind", UIDMappings: []specs.LinuxIDMapping{{Size: 1}}}},
		{name: "bind of proc", rule: "proc and sys", mount: bindMount("/host", "/proc/sys")},
		{name: "bind of sys", rule: "proc and sys", mount: bindMount("/host", "/sys")},
		{name: "not proc", rule: "file", mount: bindMount("/host", "/process", "ro")},
		{name: "share", rule: "direct-assigned network share", mount: bindMount("/share", podDir+"volumes/kubernetes.io~csi/s/mount"),
			src: Source{Direct: &DirectVolume{Device: "//account.file.core.windows.net/share", FSType: "cifs", Options: []string{"mfsymlinks"}, Metadata: map[string]string{metadataSensitive: "username=u,password=p"}}}},
		{name: "direct ext4", rule: "direct-assigned volume", mount: bindMount("/data", podDir+"volumes/kubernetes.io~csi/d/mount"),
			src: direct("ext4", map[string]string{metadataGroup: "2000", metadataPolicy: "OnRootMismatch"}, "noatime")},
		{name: "direct read-only", rule: "direct-assigned volume", mount: bindMount("/data", podDir+"volumes/kubernetes.io~csi/d/mount", "ro"), src: direct("xfs", nil, "ro")},
		{name: "proc", rule: "file system of the agent", mount: specs.Mount{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid"}}},
		{name: "nfs", rule: "other file system", mount: specs.Mount{Destination: "/n", Type: "nfs", Source: "h:/x"}},
		{name: "overlay", rule: "other file system", mount: specs.Mount{Destination: "/n", Type: "overlay", Source: "overlay"}},
		{name: "huge pages", rule: "emptyDir of huge pages", mount: bindMount("/huge", emptyOne), src: huge, limits: limit, pod: map[string]uint64{"2MB": 16 << 20}},
		{name: "huge pages by the mount's size", rule: "emptyDir of huge pages", mount: bindMount("/huge", emptyOne), pod: map[string]uint64{"2MB": 16 << 20},
			src: Source{Directory: true, Hugetlbfs: true, PageSize: huge2M, Size: 4 << 20}},
		{name: "huge pages by the pod's limit", rule: "emptyDir of huge pages", mount: bindMount("/huge", emptyOne), src: huge, pod: map[string]uint64{"1GB": 1 << 30, "2MB": 16 << 20}},
		{name: "huge pages of a size that the pod may not use", rule: "emptyDir of huge pages without a limit", mount: bindMount("/huge", emptyOne), src: huge, pod: map[string]uint64{"1GB": 1 << 30, "2MB": 0}},
		{name: "huge pages without a limit", rule: "emptyDir of huge pages without a limit", mount: bindMount("/huge", emptyOne), src: huge},
		{name: "memory", rule: "emptyDir of memory", mount: bindMount("/v", emptyOne), src: memory},
		{name: "memory with a policy", rule: "emptyDir of memory", mount: bindMount("/v", emptyOne), src: memory, annotations: map[string]string{annotationPolicy: "cGFja2FnZQ=="}},
		{name: "memory of a group", rule: "emptyDir of memory", mount: bindMount("/v", emptyOne), src: Source{Directory: true, Tmpfs: true, GID: 2000}},
		{name: "memory at shm", rule: "emptyDir of memory", mount: bindMount("/dev/shm", emptyOne), src: memory},
		{name: "subPath of memory", rule: "emptyDir of memory", mount: bindMount("/v", podDir+"volume-subpaths/v/main/0"),
			src: Source{Directory: true, Tmpfs: true, Size: 64 << 20, EmptyDir: "v", SubPath: "a/b"}},
		{name: "shm", rule: "shm", mount: bindMount("/dev/shm", "/run/shm"), src: Source{Directory: true, Tmpfs: true}},
		{name: "shm of ctr", rule: "shm", mount: specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm"}},
		{name: "emptyDir", rule: "emptyDir", mount: bindMount("/v", emptyOne), src: dir},
		{name: "emptyDir of a group", rule: "emptyDir", mount: bindMount("/v", emptyOne), src: Source{Directory: true, GID: 2000}},
		{name: "subPath of an emptyDir", rule: "emptyDir", mount: bindMount("/v", podDir+"volume-subpaths/v/main/0"), src: Source{Directory: true, EmptyDir: "v", SubPath: "sub"}},
		{name: "emptyDir of the pause container", rule: "writable directory", mount: bindMount("/v", emptyOne), src: dir, kind: PodSandbox},
		{name: "block device", rule: "block device", mount: bindMount("/b", "/dev/loop3"), src: disk},
		{name: "read-only block device", rule: "block device", mount: bindMount("/b", "/dev/loop3", "ro"), src: disk},
		{name: "file as disk", rule: "file as block device", mount: bindMount("/b", "/srv/disk.img", optionBlockFile), src: Source{Device: Device{Node: "/srv/disk.img", Identity: "file 1:2"}}},
		{name: "guest's device", rule: "device of the guest", mount: bindMount("/dev/kmsg", "/dev/kmsg"), src: Source{Kind: CharDevice}},
		{name: "guest's devices", rule: "device of the guest", mount: bindMount("/host", "/dev/snd"), src: dir},
		{name: "file in the host's shm", rule: "file", mount: bindMount("/f", "/dev/shm/f", "ro")},
		{name: "socket in dev", rule: "special file", mount: bindMount("/dev/log", "/dev/log"), src: Source{Kind: Special}},
		{name: "missing", rule: "missing source", mount: bindMount("/d", "/srv"), src: Source{Kind: Missing}},
		{name: "socket", rule: "special file", mount: bindMount("/s", "/run/docker.sock"), src: Source{Kind: Special}},
		{name: "device elsewhere", rule: "special file", mount: bindMount("/s", "/srv/null"), src: Source{Kind: CharDevice}},
		{name: "image volume", rule: "image volume", mount: bindMount("/image", "/run/containerd/image-volumes/i", "ro"), src: Source{Directory: true, Image: twoLayers("/")}},
		{name: "subPath of an image volume", rule: "image volume", mount: bindMount("/image", "/run/containerd/image-volumes/i/etc", "ro"), src: Source{Directory: true, Image: twoLayers("/etc")}},
		{name: "image of one layer", rule: "image volume", mount: bindMount("/image", "/run/containerd/image-volumes/i", "ro"),
			src: Source{Directory: true, Image: &Image{Dir: "/layers", Below: "/", Layers: twoLayers("/").Layers[:1]}}},
		{name: "writable image", rule: "writable directory", mount: bindMount("/image", "/run/containerd/image-volumes/i"), src: Source{Directory: true, Image: twoLayers("/")}},
		{name: "config map", rule: "live volume", mount: bindMount("/etc/app", podDir+"volumes/kubernetes.io~configmap/app", "ro"), src: Source{Directory: true, Live: true}},
		{name: "config map of another kubelet", rule: "live volume", mount: bindMount("/etc/app", "/srv/kubelet/any", "rw"), src: Source{Directory: true, Live: true}},
		{name: "writable directory", rule: "writable directory", mount: bindMount("/d", "/srv"), src: dir},
		{name: "writable in the end", rule: "writable directory", mount: bindMount("/d", "/srv", "ro", "rw"), src: dir},
		{name: "read-only directory", rule: "directory", mount: bindMount("/d", "/srv", "ro"), src: dir},
		{name: "hosts", rule: "file of the pod", mount: bindMount("/etc/hosts", podDir+"etc-hosts", "rw")},
		{name: "read-only hostname", rule: "file of the pod", mount: bindMount("/etc/hostname", "/x/hostname", "ro")},
		{name: "termination log", rule: "file of the pod", mount: bindMount("/dev/termination-log", "/x/log", "rw")},
		{name: "termination log elsewhere", rule: "file of the pod", mount: bindMount("/last/words", log, "rw")},
		{name: "termination log by annotation", rule: "file of the pod", mount: bindMount("/last/words", "/x/log", "rw"), annotations: map[string]string{annotationTermination: "/last/words"}},
		{name: "writable file", rule: "writable file", mount: bindMount("/data.db", "/srv/data.db", "rw")},
		{name: "read-only file", rule: "file", mount: bindMount("/etc/app.conf", "/srv/app.conf", "ro")},
		{name: "file by option", rule: "file", mount: specs.Mount{Destination: "/f", Source: "/x", Options: []string{"bind", "ro"}}},
	}
}

// plan makes the plan of a container that has the mount and nothing else.
func (d decision) plan(t *testing.T) (*Plan, error) {
	t.Helper()
	spec, rootfs, o := bundle(t, "example")
	spec.Mounts = []specs.Mount{d.mount}
	spec.Annotations = d.annotations
	spec.Linux.Resources = &specs.LinuxResources{HugepageLimits: d.limits}
	o.SandboxID, o.ContainerID, o.Type = "sb", "cc", PodContainer
	if d.kind != "" {
		o.Type = d.kind
	}
	o.Sources, o.PodHugePages = map[string]Source{d.mount.Source: d.src}, d.pod
	return New(spec, rootfs, o)
}

// Every row of the table has a case, and what comes of it is golden.
func TestMountsAreDecided(t *testing.T) {
	covered := map[string]bool{}
	golden := map[string]any{}
	for _, d := range decisions() {
		m := &mountView{Mount: d.mount, src: d.src, bind: isBind(d.mount), o: &Options{Type: PodContainer, PodHugePages: d.pod}, spec: &specs.Spec{
			Annotations: d.annotations, Linux: &specs.Linux{Resources: &specs.LinuxResources{HugepageLimits: d.limits}},
		}}
		if d.kind != "" {
			m.o.Type = d.kind
		}
		r := decide(m)
		if r == nil || r.name != d.rule {
			t.Errorf("%s: decided by %+v, want the rule %q", d.name, r, d.rule)
			continue
		}
		covered[d.rule] = true
		entry := map[string]any{"rule": r.name, "outcome": r.outcome, "mount": d.mount}
		plan, err := d.plan(t)
		switch {
		case (err != nil) != (r.outcome == Refused):
			t.Errorf("%s is %s: %v", d.name, r.outcome, err)
			continue
		case err != nil:
			if !strings.Contains(err.Error(), d.mount.Destination) || !errdefs.IsNotFound(err) && !errdefs.IsInvalidArgument(err) && !errdefs.IsNotImplemented(err) {
				t.Errorf("%s: %v; want the mount's name and a class", d.name, err)
			}
			entry["error"] = err.Error()
		default:
			for key, value := range d.result(t, plan) {
				entry[key] = value
			}
		}
		golden[d.name] = entry
	}
	for _, r := range rules {
		if !covered[r.name] {
			t.Errorf("the rule %q has no case", r.name)
		}
	}
	compare(t, filepath.Join("testdata", "decisions.golden.json"), golden)
}

// result is what a plan says beyond layers and overlay.
func (d decision) result(t *testing.T, plan *Plan) map[string]any {
	t.Helper()
	sources := map[string]string{}
	for _, disk := range plan.AllDisks() {
		sources[disk.ID] = "0000:00:07.0"
	}
	r, err := plan.Request(sources)
	if err != nil {
		t.Fatal(err)
	}
	result := map[string]any{"becomes": asJSON(t, r.GetOCI().GetMounts()[0])}
	var storages []any
	for _, s := range r.GetStorages()[len(plan.Disks)+1:] {
		storages = append(storages, asJSON(t, s))
	}
	if storages != nil {
		result["storages"] = storages
	}
	if plan.Volumes != nil {
		result["disks"] = plan.Volumes
	}
	if plan.ImageLayers != nil {
		result["layers"] = plan.ImageLayers
	}
	if plan.Files != nil {
		result["files"] = plan.Files
	}
	if plan.TerminationLog != "" {
		result["termination log"] = plan.TerminationLog
	}
	return result
}

func TestCopiesHaveNamesOfTheirOwn(t *testing.T) {
	m := bindMount("/f", "/x", "ro")
	v, err := planVolumes(&specs.Spec{Mounts: []specs.Mount{m, m}}, &Options{ContainerID: "cc"})
	if err != nil || v.files[0].GuestPath == v.files[1].GuestPath {
		t.Errorf("%v, %+v: want two names", err, v)
	}
}

// A device that is used three times, once read-only, is one writable disk.
func TestOneDeviceIsOneDisk(t *testing.T) {
	spec, rootfs, o := bundle(t, "example")
	device := Device{Node: "/dev/loop3", Identity: "device 7:3"}
	o.Sources = map[string]Source{"/dev/loop3": {Kind: BlockDevice, Device: device}, "/dev/disk/by-id/x": {Kind: BlockDevice, Device: device}}
	o.Devices = map[string]Device{"/dev/xvda": device}
	spec.Mounts = []specs.Mount{bindMount("/a", "/dev/loop3", "ro"), bindMount("/b", "/dev/disk/by-id/x")}
	spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/xvda", Type: "b", Major: 7, Minor: 3}}
	plan, err := New(spec, rootfs, o)
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.Volumes) != 1 || plan.Volumes[0].ReadOnly {
		t.Errorf("disks %+v, want a writable one", plan.Volumes)
	}
	if _, err := plan.Request(map[string]string{plan.Disks[0].ID: "1", plan.Disks[1].ID: "2"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("without the position of the volume: %v", err)
	}
	r, err := plan.Request(map[string]string{plan.Disks[0].ID: "1", plan.Disks[1].ID: "2", plan.Volumes[0].ID: "07"})
	if err != nil {
		t.Fatal(err)
	}
	want := &agentpb.Device{Id: "07", Type: "blk", ContainerPath: "/dev/xvda"}
	if len(r.GetDevices()) != 1 || !proto.Equal(r.GetDevices()[0], want) {
		t.Errorf("devices %v, want %v", r.GetDevices(), want)
	}
	if a, b := r.GetOCI().GetMounts()[0].GetSource(), r.GetOCI().GetMounts()[1].GetSource(); a != b || a != storageDir+"MDc=" {
		t.Errorf("sources %s and %s", a, b)
	}
}

func TestRawDevices(t *testing.T) {
	seven, three := int64(7), int64(3)
	rule := func(access string) []specs.LinuxDeviceCgroup {
		return []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}, {Allow: true, Type: "b", Major: &seven, Minor: &three, Access: access}}
	}
	for name, c := range map[string]struct {
		rules    []specs.LinuxDeviceCgroup
		known    bool
		readOnly bool
		class    func(error) bool
	}{
		"writable":     {rules: rule("rwm"), known: true},
		"read-only":    {rules: rule("r"), known: true, readOnly: true},
		"without rule": {known: true},
		"no node":      {rules: rule("rwm"), class: errdefs.IsNotFound},
		// A privileged container would get the host's own disks.
		"every device": {rules: []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}, known: true, class: errdefs.IsNotImplemented},
	} {
		t.Run(name, func(t *testing.T) {
			spec, rootfs, o := bundle(t, "example")
			spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/null", Type: "c"}, {Path: "/dev/xvda", Type: "b", Major: 7, Minor: 3}}
			spec.Linux.Resources.Devices = c.rules
			if c.known {
				o.Devices = map[string]Device{"/dev/xvda": {Node: "/dev/loop3", Identity: "device 7:3"}}
			}
			plan, err := New(spec, rootfs, o)
			if c.class != nil {
				if !c.class(err) || !strings.Contains(err.Error(), "/dev/xvda (7:3)") {
					t.Errorf("%v", err)
				}
				return
			}
			if err != nil || len(plan.Volumes) != 1 || plan.Volumes[0].ReadOnly != c.readOnly || len(plan.raw) != 1 {
				t.Errorf("%v, %+v", err, plan)
			}
		})
	}
}

func TestParseImage(t *testing.T) {
	a, one := strings.Repeat("a", 64), strings.Repeat("1", 64)
	good := imageSource + "/layers;" + a + "=" + one
	if i := parseImage(good); i == nil || i.Dir != "/layers" || len(i.Layers) != 1 || i.Layers[0] != (ImageLayer{a, one}) {
		t.Errorf("%s is read as %+v", good, i)
	}
	for _, bad := range []string{
		"", "kata-overlay", "/dev/sda", imageSource, imageSource + "/layers", imageSource + "/layers;", imageSource + "layers;" + a + "=" + one,
		imageSource + "/x/../layers;" + a + "=" + one, imageSource + "/layers;../" + a + "=" + one, imageSource + "/layers;" + a + "=",
		imageSource + "/layers;" + a + "=" + one + ";" + a + "=" + one, imageSource + "/layers;" + strings.ToUpper(a) + "=" + one,
	} {
		if i := parseImage(bad); i != nil {
			t.Errorf("%q is read as %+v", bad, i)
		}
	}
}

// FuzzImage: an image names files in its directory only.
func FuzzImage(f *testing.F) {
	f.Add(imageSource + "/layers;" + strings.Repeat("a", 64) + "=" + strings.Repeat("1", 64))
	f.Add(imageSource + "/;x=y")
	f.Fuzz(func(t *testing.T, source string) {
		i := parseImage(source)
		if i == nil {
			return
		}
		for _, l := range i.Layers {
			if path := filepath.Join(i.Dir, l.Name); filepath.Dir(path) != i.Dir || len(l.Name) != 64 || len(l.RootHash) != 64 {
				t.Fatalf("%q names %s", source, path)
			}
		}
		if len(i.Layers) == 0 {
			t.Fatalf("%q has no layers", source)
		}
	})
}
