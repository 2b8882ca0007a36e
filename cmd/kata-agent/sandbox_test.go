package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/guest/rpc"
)

func TestAgentTellsOfItself(t *testing.T) {
	a := startAgent(t)
	check, err := a.health.Check(a.ctx(), &agentpb.CheckRequest{})
	if err != nil || check.GetStatus() != agentpb.HealthCheckResponse_SERVING {
		t.Errorf("health is %v, %v", check, err)
	}
	version, err := a.health.Version(a.ctx(), &agentpb.CheckRequest{})
	if err != nil || version.GetGrpcVersion() != rpc.APIVersion || !strings.HasPrefix(version.GetAgentVersion(), "kata-cc-") {
		t.Errorf("version is %v, %v", version, err)
	}
	details, err := a.GetGuestDetails(a.ctx(), &agentpb.GuestDetailsRequest{MemBlockSize: true, MemHotplugProbe: true})
	if err != nil || details.GetAgentDetails().GetInitDaemon() || !details.GetAgentDetails().GetSupportsSeccomp() {
		t.Errorf("details are %v, %v", details, err)
	}
	if got := details.GetAgentDetails().GetStorageHandlers(); !strings.Contains(fmt.Sprint(got), "blk") {
		t.Errorf("storage handlers are %v", got)
	}
	_, err = a.SetPolicy(a.ctx(), &agentpb.SetPolicyRequest{})
	wantStatus(t, err, codes.NotFound, "is not supported")
	_, err = a.AddSwap(a.ctx(), &agentpb.AddSwapRequest{})
	wantStatus(t, err, codes.Unimplemented, "AddSwap")
	metrics, err := a.GetMetrics(a.ctx(), &agentpb.GetMetricsRequest{})
	if err != nil || !strings.Contains(metrics.GetMetrics(), "kata_agent_process_resident_memory_bytes") {
		t.Errorf("metrics are %v, %v", metrics, err)
	}
}

func TestSandboxIsCreatedOnce(t *testing.T) {
	a := startAgent(t)
	_, err := a.CopyFile(a.ctx(), &agentpb.CopyFileRequest{Path: "/run/kata-containers/x", FileMode: unix.S_IFREG | 0o644})
	wantStatus(t, err, codes.FailedPrecondition, "the sandbox is new")
	err = a.create("box", a.spec("true"))
	wantStatus(t, err, codes.FailedPrecondition, "the sandbox is new")
	_, err = a.CreateSandbox(a.ctx(), &agentpb.CreateSandboxRequest{Storages: []*agentpb.Storage{{Driver: "nothing", MountPoint: "/run/kata-containers/x"}}})
	wantStatus(t, err, codes.Internal, "Failed to find the storage handler nothing")
	if _, err := a.CreateSandbox(a.ctx(), &agentpb.CreateSandboxRequest{}); err != nil { // a failed one leaves nothing
		t.Fatal(err)
	}
	_, err = a.CreateSandbox(a.ctx(), &agentpb.CreateSandboxRequest{})
	wantStatus(t, err, codes.FailedPrecondition, "the sandbox is running")
}

func TestDestroySandboxEndsTheAgent(t *testing.T) {
	a := startSandbox(t)
	a.run("box", "sleep", "1000")
	oom := make(chan error, 1)
	go func() {
		_, err := a.GetOOMEvent(a.ctx(), &agentpb.GetOOMEventRequest{})
		oom <- err
	}()
	waited := make(chan int32, 1)
	go func() {
		resp, _ := a.WaitProcess(a.ctx(), &agentpb.WaitProcessRequest{ContainerId: "box"})
		waited <- resp.GetStatus()
	}()
	time.Sleep(20 * time.Millisecond)
	if _, err := a.DestroySandbox(a.ctx(), &agentpb.DestroySandboxRequest{}); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, <-oom, codes.Internal, `""`)
	if got := <-waited; got != 137 {
		t.Errorf("the container ended with %d", got)
	}
	select {
	case <-a.exited:
		if code := a.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("the agent exited with %d", code)
		}
	case <-time.After(callTimeout):
		t.Error("the agent did not exit")
	}
}

// underInit is what an init with the guest's mounts does: it starts the agent and
// outlives it.
const underInit = `busybox mount -t tmpfs tmpfs /run && busybox mount -t cgroup2 cgroup2 /sys/fs/cgroup && { "$0"; echo the agent ended with $?; }`

func TestAgentUnderAnInit(t *testing.T) {
	requirements(t)
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Skip("needs unshare")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	a := newAgent(t)
	a.launch(exec.Command(unshare, "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--net", "--uts", "--ipc", busybox, "sh", "-c", underInit, self))
	details, err := a.GetGuestDetails(a.ctx(), &agentpb.GuestDetailsRequest{})
	if err != nil || details.GetAgentDetails().GetInitDaemon() {
		t.Errorf("the agent tells %v, %v of itself", details, err)
	}
	if _, err := a.CreateSandbox(a.ctx(), &agentpb.CreateSandboxRequest{Storages: []*agentpb.Storage{{
		Driver: "ephemeral", Source: "shm", Fstype: "tmpfs", MountPoint: "/run/kata-containers/sandbox/shm"}}}); err != nil {
		t.Fatal(err)
	}
	a.run("box", "sh", "-c", "echo works; sleep 1000 & exit 5") // the orphan is the container's own affair
	if got := a.readUntil("box", "", "works"); got != "works\n" {
		t.Errorf("output is %q", got)
	}
	if got := a.wait("box", ""); got != 5 {
		t.Errorf("status is %d, want 5", got)
	}
	if _, err := a.DestroySandbox(a.ctx(), &agentpb.DestroySandboxRequest{}); err != nil {
		t.Fatal(err)
	}
	<-a.exited // the init's
	if !strings.Contains(a.log.String(), "the agent ended with 0") {
		t.Error("the agent did not exit with 0, and nobody switched anything off")
	}
}

// mounts lists what the agent has mounted for its sandbox; the host's network
// namespaces, which come and go by themselves, are under its /run.
func (a *agent) mounts() []string {
	a.t.Helper()
	data, err := os.ReadFile(filepath.Join("/proc", a.pid(), "mountinfo"))
	if err != nil {
		a.t.Fatal(err)
	}
	var all []string
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], "/run/") && !strings.HasPrefix(f[4], "/run/netns") {
			all = append(all, f[4])
		}
	}
	return all
}

// leftovers is what grows when something is not given back.
func (a *agent) leftovers() string {
	a.t.Helper()
	fds, err := os.ReadDir(filepath.Join("/proc", a.pid(), "fd"))
	if err != nil {
		a.t.Fatal(err)
	}
	bundles, err := os.ReadDir(filepath.Join("/proc", a.pid(), "root/run/kata-containers"))
	if err != nil {
		a.t.Fatal(err)
	}
	state, err := filepath.Glob(filepath.Join("/proc", a.pid(), "root/run/kata-agent/*/*"))
	if err != nil {
		a.t.Fatal(err)
	}
	children, err := os.ReadFile(filepath.Join("/proc", a.pid(), "task", a.pid(), "children"))
	if err != nil {
		a.t.Fatal(err)
	}
	cgroups, _ := filepath.Glob("/sys/fs/cgroup/unified" + a.spec().GetLinux().GetCgroupsPath() + "*")
	return fmt.Sprintf("mounts %v, %d fds, bundles %v, state %v, children %q, cgroups %v", a.mounts(), len(fds), bundles, state, children, cgroups)
}

// wantLeftovers waits until nothing is left beyond what was there before.
func (a *agent) wantLeftovers(before string) {
	a.t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for a.leftovers() != before {
		if time.Now().After(deadline) {
			a.t.Fatalf("before: %s\nafter: %s", before, a.leftovers())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestContainersLeaveNothing(t *testing.T) {
	a := startSandbox(t)
	a.run("warm", "true") // opens what stays open: the first container's pid namespace
	a.wait("warm", "")
	a.remove("warm")
	before := a.leftovers()
	var wait sync.WaitGroup
	for i := range 10 {
		wait.Go(func() {
			id := fmt.Sprintf("box%d", i)
			spec := a.spec("sleep", "1000")
			spec.Linux.CgroupsPath += fmt.Sprint(i)
			if err := a.create(id, spec); err != nil {
				t.Error(err)
				return
			}
			if _, err := a.StartContainer(a.ctx(), &agentpb.StartContainerRequest{ContainerId: id}); err != nil {
				t.Error(err)
			}
			request := &agentpb.ExecProcessRequest{ContainerId: id, ExecId: "e", Process: &agentpb.Process{Args: []string{"/bin/sleep", "1000"}, Terminal: i%2 == 0}}
			if _, err := a.ExecProcess(a.ctx(), request); err != nil {
				t.Error(err)
			}
			if _, err := a.RemoveContainer(a.ctx(), &agentpb.RemoveContainerRequest{ContainerId: id, Timeout: 20}); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	a.wantLeftovers(before)
}

func TestFailedCreateIsTakenBack(t *testing.T) {
	a := startSandbox(t)
	before := a.leftovers()
	local := &agentpb.Storage{Driver: "local", Source: "local", Fstype: "local", MountPoint: "/run/kata-containers/shared/containers/sandbox/local/v", Options: []string{"mode=0777"}}
	tmpfs := &agentpb.Storage{Driver: "ephemeral", Source: "tmpfs", Fstype: "tmpfs", MountPoint: "/run/kata-containers/sandbox/ephemeral/v", Options: []string{"size=1048576"}}
	for name, last := range map[string]*agentpb.Storage{
		"storage handler": {Driver: "other", MountPoint: "/run/kata-containers/x"},
		"not mounted":     {Driver: "overlayfs", Source: "none", MountPoint: "/run/kata-containers/y", Options: []string{"lowerdir=a:b"}},
		"plain path":      {Driver: "local", MountPoint: "/etc"},
		"format DDDD":     {Driver: "blk", Source: "nonsense", Fstype: "ext4", MountPoint: "/run/kata-containers/z"},
		"was not found":   nil,
	} {
		r := &agentpb.CreateContainerRequest{ContainerId: "box", OCI: a.spec("/missing"), Storages: []*agentpb.Storage{local, tmpfs}}
		if last != nil {
			r.Storages = append(r.Storages, last)
		}
		_, err := a.CreateContainer(a.ctx(), r)
		wantStatus(t, err, codes.Internal, name)
		a.wantLeftovers(before)
	}
}

func TestStoragesAreSharedAndCompared(t *testing.T) {
	a := startSandbox(t)
	volume := func(size string) []*agentpb.Storage {
		return []*agentpb.Storage{{Driver: "ephemeral", Source: "tmpfs", Fstype: "tmpfs", MountPoint: "/run/kata-containers/sandbox/ephemeral/v", Options: []string{"noexec", "size=" + size}}}
	}
	create := func(id, size string) error {
		spec := a.spec("sleep", "1000")
		spec.Linux.CgroupsPath += id
		spec.Mounts = append(spec.Mounts, &agentpb.Mount{Destination: "/volume", Type: "bind", Source: "/run/kata-containers/sandbox/ephemeral/v", Options: []string{"rbind"}})
		_, err := a.CreateContainer(a.ctx(), &agentpb.CreateContainerRequest{ContainerId: id, OCI: spec, Storages: volume(size)})
		return err
	}
	if err := create("one", "65536"); err != nil {
		t.Fatal(err)
	}
	if err := create("two", "65536"); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, create("three", "131072"), codes.AlreadyExists, "differs from what is asked")
	if !strings.Contains(a.proc("mounts"), "/run/kata-containers/sandbox/ephemeral/v tmpfs rw,noexec,relatime,size=64k") {
		t.Errorf("the volume is mounted otherwise than asked:\n%s", a.proc("mounts"))
	}
	a.remove("one")
	if !strings.Contains(a.proc("mounts"), "ephemeral/v") {
		t.Error("the volume is gone while a container uses it")
	}
	a.remove("two")
	if err := create("next", "65536"); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(a.proc("mounts"), "ephemeral/v"); n != 1 {
		t.Errorf("the pod's volume is mounted %d times for the next container", n)
	}
	a.remove("next")
}

func (a *agent) proc(file string) string {
	a.t.Helper()
	data, err := os.ReadFile(filepath.Join("/proc", a.pid(), file))
	if err != nil {
		a.t.Fatal(err)
	}
	return string(data)
}

func TestCopyFile(t *testing.T) {
	a := startSandbox(t)
	const dir = "/run/kata-containers/shared/containers/"
	copyFile := func(r *agentpb.CopyFileRequest) error {
		_, err := a.CopyFile(a.ctx(), r)
		return err
	}
	text := strings.Repeat("x", 1000)
	piece := func(offset int64) *agentpb.CopyFileRequest {
		return &agentpb.CopyFileRequest{Path: dir + "d/hosts.json", FileSize: 1000, FileMode: unix.S_IFREG | 0o640, DirMode: 0x800001E8, Uid: 7, Gid: 8, Offset: offset, Data: []byte(text[offset:min(offset+400, 1000)])}
	}
	for _, offset := range []int64{0, 400} {
		if err := copyFile(piece(offset)); err != nil {
			t.Fatal(err)
		}
		if _, err := a.inside(dir + "d/hosts.json"); err == nil {
			t.Error("a file is seen before it is whole")
		}
	}
	if err := copyFile(piece(800)); err != nil {
		t.Fatal(err)
	}
	if got, err := a.inside(dir + "d/hosts.json"); got != text || err != nil {
		t.Errorf("the file has %d bytes, %v", len(got), err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join("/proc", a.pid(), "root", dir, "d/hosts.json"), &st); err != nil || st.Mode != unix.S_IFREG|0o640 || st.Uid != 7 || st.Gid != 8 {
		t.Errorf("the file is %o of %d:%d, %v", st.Mode, st.Uid, st.Gid, err)
	}
	for _, r := range []*agentpb.CopyFileRequest{
		{Path: dir + "secret", FileMode: unix.S_IFDIR | 0o750, DirMode: 0o750},
		{Path: dir + "secret/..data", FileMode: unix.S_IFLNK | 0o777, Data: []byte("first")},
		{Path: dir + "secret/..data", FileMode: unix.S_IFLNK | 0o777, Data: []byte("second")},
		{Path: dir + "empty", FileMode: unix.S_IFREG | 0o600},
		{Path: dir + "out", FileMode: unix.S_IFLNK | 0o777, Data: []byte("/etc")},
	} {
		if err := copyFile(r); err != nil {
			t.Errorf("%s: %v", r.GetPath(), err)
		}
	}
	if target, err := os.Readlink(filepath.Join("/proc", a.pid(), "root", dir, "secret/..data")); target != "second" || err != nil {
		t.Errorf("the link points to %q, %v", target, err)
	}
	for _, path := range []string{"/etc/passwd", "/run/kata-containers", "/run/kata-containers/../x", dir + "../../../etc/x", dir + "out/x", "run/kata-containers/x"} {
		if err := copyFile(&agentpb.CopyFileRequest{Path: path, FileMode: unix.S_IFREG | 0o644}); err == nil {
			t.Errorf("a file was copied to %s", path)
		}
	}
	wantStatus(t, copyFile(&agentpb.CopyFileRequest{Path: dir + "big", FileSize: 1 << 40, FileMode: unix.S_IFREG}), codes.InvalidArgument, "piece of")
	wantStatus(t, copyFile(piece(400)), codes.FailedPrecondition, "does not follow")
}

func TestNetwork(t *testing.T) {
	a := startSandbox(t)
	const mac = "02:00:00:00:00:01"
	ns, err := netns.GetFromPath(filepath.Join("/proc", a.pid(), "ns/net"))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	inside, err := netlink.NewHandleAt(ns)
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	link := netlink.NewLinkAttrs()
	link.Name = "nic0"
	link.HardwareAddr = []byte{2, 0, 0, 0, 0, 1}
	holder := netlink.NewLinkAttrs()
	holder.Name = "eth0"
	for _, l := range []netlink.Link{&netlink.Dummy{LinkAttrs: link}, &netlink.Dummy{LinkAttrs: holder}} {
		if err := inside.LinkAdd(l); err != nil {
			t.Skipf("needs the kernel's dummy links: %v", err)
		}
	}
	want := &agentpb.Interface{
		Name: "eth0", HwAddr: mac, Mtu: 1400,
		IPAddresses: []*agentpb.IPAddress{{Address: "10.1.2.3", Mask: "24"}, {Family: agentpb.IPFamily_v6, Address: "fd00::3", Mask: "64"}},
	}
	for range 2 { // the second time changes nothing
		if _, err := a.UpdateInterface(a.ctx(), &agentpb.UpdateInterfaceRequest{Interface: want}); err != nil {
			t.Fatal(err)
		}
	}
	routes := &agentpb.Routes{Routes: []*agentpb.Route{
		{Gateway: "10.1.9.1", Device: "eth0"}, // by a gateway that the next one makes reachable
		{Dest: "10.1.9.1/32", Device: "eth0", Scope: 253},
	}}
	for range 2 {
		if _, err := a.UpdateRoutes(a.ctx(), &agentpb.UpdateRoutesRequest{Routes: routes}); err != nil {
			t.Fatal(err)
		}
	}
	neighbors := &agentpb.ARPNeighbors{ARPNeighbors: []*agentpb.ARPNeighbor{{ToIPAddress: &agentpb.IPAddress{Address: "10.1.2.1"}, Device: "eth0", Lladdr: "02:00:00:00:00:09"}}}
	if _, err := a.AddARPNeighbors(a.ctx(), &agentpb.AddARPNeighborsRequest{Neighbors: neighbors}); err != nil {
		t.Fatal(err)
	}
	all, err := a.ListInterfaces(a.ctx(), &agentpb.ListInterfacesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, i := range all.GetInterfaces() {
		if i.GetHwAddr() == mac {
			text := i.String()
			found = i.GetName() == "eth0" && i.GetMtu() == 1400 && strings.Contains(text, "10.1.2.3") && strings.Contains(text, "fd00::3")
		}
	}
	if !found {
		t.Errorf("interfaces are %v", all)
	}
	listed, err := a.ListRoutes(a.ctx(), &agentpb.ListRoutesRequest{})
	if err != nil || !strings.Contains(listed.String(), "10.1.9.1") {
		t.Errorf("routes are %v, %v", listed, err)
	}
	_, err = a.UpdateInterface(a.ctx(), &agentpb.UpdateInterfaceRequest{})
	wantStatus(t, err, codes.InvalidArgument, "empty update interface request")
	_, err = a.UpdateInterface(a.ctx(), &agentpb.UpdateInterfaceRequest{Interface: &agentpb.Interface{HwAddr: "02:00:00:00:00:ff"}})
	wantStatus(t, err, codes.Internal, "Link not found")
}
