package main

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

const debugConsole = "agent.debug_console agent.log=debug"

// shell runs lines in the guest's debug console and returns what it showed.
func (m *machine) shell(lines string) string {
	m.t.Helper()
	conn := m.dial(1026)
	defer conn.Close()
	if _, err := io.WriteString(conn, "stty -echo; PS1=; "+lines+"\nexit\n"); err != nil {
		m.t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(callTimeout))
	out, err := io.ReadAll(conn)
	if err != nil {
		m.t.Fatalf("debug console: %v after %q", err, out)
	}
	return strings.ReplaceAll(string(out), "\r\n", "\n")
}

func (m *machine) createSandbox() {
	m.t.Helper()
	_, err := m.CreateSandbox(m.ctx(), &agentpb.CreateSandboxRequest{SandboxId: "sandbox", Hostname: "example", Dns: []string{"nameserver 10.0.0.10"}})
	if err != nil {
		m.t.Fatal(err)
	}
}

// busyboxLayer is a layer with the host's static busybox.
func busyboxLayer(t *testing.T, id string) layer {
	t.Helper()
	data, err := os.ReadFile(busybox)
	if err != nil {
		t.Skip("needs " + busybox)
	}
	return makeLayer(t, id, [2]string{"LAYER_1", ""}, [2]string{"bin/", ""}, [2]string{"bin/busybox", string(data)}, [2]string{"bin/sh", "->busybox"})
}

func (m *machine) podSpec(id string, args ...string) *agentpb.Spec {
	spec := m.spec(args...)
	spec.Root.Path = "/run/kata-containers/shared/containers/" + id
	spec.Linux.CgroupsPath = "/pod/" + id
	spec.Mounts = spec.Mounts[:3]
	spec.Linux.Resources = &agentpb.LinuxResources{
		Memory: &agentpb.LinuxMemory{Limit: 50 << 20}, CPU: &agentpb.LinuxCPU{Quota: 20000, Period: 100000, Shares: 204}, Pids: &agentpb.LinuxPids{Limit: 100},
		Devices: []*agentpb.LinuxDeviceCgroup{{Allow: false, Major: -1, Minor: -1, Access: "rwm"}},
	}
	return spec
}

// createOn creates a container on layers which are on disks at sources.
func (m *machine) createOn(id string, spec *agentpb.Spec, layers []layer, sources []string) error {
	r := &agentpb.CreateContainerRequest{ContainerId: id, ExecId: id, OCI: spec}
	for i, l := range layers {
		r.Storages = append(r.Storages, l.storage(sources[i]))
	}
	r.Storages = append(r.Storages, overlay(id, layers...))
	_, err := m.CreateContainer(m.ctx(), r)
	return err
}

func TestGuestRunsContainersOnVerifiedLayers(t *testing.T) {
	base := busyboxLayer(t, strings.Repeat("a", 64))
	top := makeLayer(t, strings.Repeat("b", 64), [2]string{"LAYER_2", ""}, [2]string{"data", strings.Repeat("x", 64<<10)})
	m := bootVM(t, debugConsole)
	m.createSandbox()
	sources := []string{m.plug(top.path, "top"), m.plug(base.path, "base")}
	if err := m.createOn("one", m.podSpec("one", "/bin/busybox", "sh", "-c", "busybox ls /; busybox cat /proc/self/cgroup; busybox head -c 4 /data; exec busybox sleep 1000"), []layer{top, base}, sources); err != nil {
		t.Fatal(err)
	}
	m.start("one")
	if got := m.readUntil("one", "", "xxxx"); !strings.Contains(got, "LAYER_1\nLAYER_2\nbin\ndata\ndev\n") {
		t.Errorf("the container sees %q", got)
	}
	// The second container names the same layers, by the other form of their position.
	if err := m.createOn("two", m.podSpec("two", "/bin/busybox", "sleep", "1000"), []layer{base}, []string{sources[1]}); err != nil {
		t.Fatal(err)
	}
	m.start("two")
	stats, err := m.StatsContainer(m.ctx(), &agentpb.StatsContainerRequest{ContainerId: "one"})
	if err != nil || stats.GetCgroupStats().GetMemoryStats().GetUsage().GetLimit() != 50<<20 || stats.GetCgroupStats().GetCpuStats().GetCpuUsage().GetTotalUsage() == 0 {
		t.Errorf("stats are %v, %v", stats, err)
	}
	shown := m.shell("dmsetup ls; dmsetup table " + base.id + "; mount; cat /etc/resolv.conf; free; cat /proc/1/status | grep VmRSS; ls -l /run/kata-containers/one/rootfs")
	for _, want := range []string{
		base.id + "\t(253:", base.rootHash,
		"/dev/mapper/" + base.id + " on /run/kata-containers/sandbox/layers/" + base.id + " type fuse.tar (ro",
		"none on /run/kata-containers/one/rootfs type overlay (rw,relatime,lowerdir=" + top.id + ":" + base.id + ",upperdir=/run/kata-containers/one/upper,workdir=/run/kata-containers/one/work",
		"nameserver 10.0.0.10", "LAYER_1",
	} {
		if !strings.Contains(shown, want) {
			t.Errorf("the guest does not show %q", want)
		}
	}
	t.Logf("in the guest:\n%s", shown)
	m.signal("one", "", unix.SIGKILL)
	if got := m.wait("one", ""); got != 137 {
		t.Errorf("status is %d", got)
	}
	m.remove("one")
	if shown := m.shell("dmsetup ls"); strings.Contains(shown, top.id) || !strings.Contains(shown, base.id) {
		t.Errorf("after the first removal dmsetup shows %q", shown)
	}
	m.remove("two")
	if shown := m.shell("dmsetup ls; ls /dev/mapper; mount"); strings.Contains(shown, base.id) {
		t.Errorf("after the last removal the guest shows %q", shown)
	}
	if _, err := m.DestroySandbox(m.ctx(), &agentpb.DestroySandboxRequest{}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-m.ended:
	case <-time.After(callTimeout):
		t.Error("the machine is not switched off after DestroySandbox")
	}
}

func TestGuestLimitsAndWatches(t *testing.T) {
	base := busyboxLayer(t, strings.Repeat("a", 64))
	m := bootVM(t, debugConsole+" LD_PRELOAD=/of/the/host.so")
	m.createSandbox()
	if shown := m.shell("env"); strings.Contains(shown, "LD_PRELOAD") || !strings.Contains(shown, "PATH=") {
		t.Errorf("a word of the kernel's command line is a variable of programs: %s", shown)
	}
	at := m.plug(base.path, "base")
	spec := m.podSpec("greedy", "/bin/sh", "-c", "read x; a=0123456789abcdef; while :; do a=$a$a; done")
	spec.Linux.Resources.Memory.Limit = 16 << 20
	spec.Linux.Seccomp = &agentpb.LinuxSeccomp{
		DefaultAction: "SCMP_ACT_ALLOW", Architectures: []string{"SCMP_ARCH_X86_64"},
		Syscalls: []*agentpb.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: "SCMP_ACT_ERRNO"}},
	}
	if err := m.createOn("greedy", spec, []layer{base}, []string{at}); err != nil {
		t.Fatal(err)
	}
	m.start("greedy")
	m.exec("greedy", "e", "/bin/busybox", "sh", "-c", "busybox mkdir /x; echo $?; busybox grep NoNewPrivs /proc/self/status")
	if got := m.readAll(m.ReadStdout, "greedy", "e"); !strings.Contains(got, "1\nNoNewPrivs:") {
		t.Errorf("under the seccomp profile an exec shows %q", got)
	}
	m.wait("greedy", "e")
	update := &agentpb.UpdateContainerRequest{ContainerId: "greedy", Resources: &agentpb.LinuxResources{Pids: &agentpb.LinuxPids{Limit: 77}, CPU: &agentpb.LinuxCPU{Quota: 50000, Period: 100000}}}
	if _, err := m.UpdateContainer(m.ctx(), update); err != nil {
		t.Error(err)
	}
	stats, err := m.StatsContainer(m.ctx(), &agentpb.StatsContainerRequest{ContainerId: "greedy"})
	if err != nil || stats.GetCgroupStats().GetPidsStats().GetLimit() != 77 || stats.GetCgroupStats().GetMemoryStats().GetUsage().GetLimit() != 16<<20 {
		t.Errorf("after the update stats are %v, %v", stats, err)
	}
	const then = 2_000_000_000
	if _, err := m.SetGuestDateTime(m.ctx(), &agentpb.SetGuestDateTimeRequest{Sec: then}); err != nil {
		t.Error(err)
	}
	if shown := m.shell("date +clock:%s"); !strings.Contains(shown, fmt.Sprintf("clock:%d", then)[:len("clock:2000000")]) {
		t.Errorf("the guest's clock shows %q", shown)
	}
	oom := make(chan string, 1)
	go func() {
		resp, _ := m.GetOOMEvent(m.ctx(), &agentpb.GetOOMEventRequest{})
		oom <- resp.GetContainerId()
	}()
	m.write("greedy", "", "go\n")
	if got := <-oom; got != "greedy" {
		t.Errorf("the event names %q", got)
	}
	if got := m.wait("greedy", ""); got != 137 {
		t.Errorf("status is %d, want 137", got)
	}
	m.remove("greedy")
	tty := m.podSpec("tty", "/bin/sh")
	tty.Process.Terminal = true
	if err := m.createOn("tty", tty, []layer{base}, []string{at}); err != nil {
		t.Fatal(err)
	}
	m.start("tty")
	m.write("tty", "", "busybox tty; exit 4\n")
	if got := m.readAll(m.ReadStdout, "tty", ""); !strings.Contains(got, "/dev/pts/0") {
		t.Errorf("the terminal shows %q", got)
	}
	if got := m.wait("tty", ""); got != 4 {
		t.Errorf("status is %d", got)
	}
	m.remove("tty")
}

func TestGuestRefusesWhatTheRootHashDoesNotCover(t *testing.T) {
	base := busyboxLayer(t, strings.Repeat("a", 64))
	m := bootVM(t, debugConsole)
	m.createSandbox()
	flip := func(at int64) string {
		data, err := os.ReadFile(base.path)
		if err != nil {
			t.Fatal(err)
		}
		data[at] ^= 1
		path := base.path + "-flipped"
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	wrong := base
	wrong.rootHash = strings.Repeat("0", 64)
	at := m.plug(base.path, "base")
	err := m.createOn("one", m.podSpec("one", "/bin/busybox", "true"), []layer{wrong}, []string{at})
	wantStatus(t, err, codes.Internal, wrong.rootHash)
	wantStatus(t, err, codes.Internal, base.id)
	none := base.storage(at)
	none.Options = none.Options[:3]
	_, err = m.CreateContainer(m.ctx(), &agentpb.CreateContainerRequest{ContainerId: "one", OCI: m.podSpec("one", "true"), Storages: []*agentpb.Storage{none}})
	wantStatus(t, err, codes.Internal, "no root hash")

	// A flipped bit in the middle of busybox: the first and the last block are good.
	flipped := m.plug(flip(300<<10), "flipped")
	if err := m.createOn("two", m.podSpec("two", "/bin/busybox", "true"), []layer{base}, []string{flipped}); err != nil {
		t.Fatalf("create on a layer with one bad block: %v", err)
	}
	shown := m.shell("cat /run/kata-containers/two/rootfs/bin/busybox >/dev/null; echo status $?")
	if !strings.Contains(shown, "Input/output error") || !strings.Contains(shown, "status 1") {
		t.Errorf("reading a bad block shows %q", shown)
	}
	if !strings.Contains(m.vm.Console(), `"root_hash":"`+base.rootHash) {
		t.Error("the log does not name the root hash of the bad layer")
	}
	m.remove("two")
	if shown := m.shell("dmsetup ls; ls /dev/mapper; ls /run/kata-containers"); strings.Contains(shown, base.id) || strings.Contains(shown, "two") {
		t.Errorf("after failures the guest still has %q", shown)
	}
}

func TestGuestWaitsForADisk(t *testing.T) {
	base := busyboxLayer(t, strings.Repeat("a", 64))
	m := bootVM(t, "agent.hotplug_timeout=1 "+debugConsole)
	m.createSandbox()
	none := m.plug(base.path, "first")[:len("0000:00:")] + "1f.0"
	_, err := m.CreateContainer(m.ctx(), &agentpb.CreateContainerRequest{ContainerId: "one", OCI: m.podSpec("one", "true"), Storages: []*agentpb.Storage{base.storage(none)}})
	wantStatus(t, err, codes.Internal, "waiting for uevent")

	bridges := map[string]string{} // the slot on the root bus of the bridge before each bus
	for _, found := range busOfBridge.FindAllStringSubmatch(m.shell("ls -d /sys/devices/pci0000:00/*/pci_bus/*"), -1) {
		bridges[found[2]] = found[1]
	}
	// The VMM answers before the guest has seen the disk. The position is told in
	// its other form: a slot for each bridge, then the disk's own.
	at := m.plug(base.path, "late")
	bus, slot := at[:len("0000:00")], strings.TrimSuffix(at[len("0000:00:"):], ".0")
	if bridges[bus] == "" {
		t.Fatalf("the disk is at %s, behind none of the bridges %v", at, bridges)
	}
	if err = m.createOn("one", m.podSpec("one", "/bin/busybox", "true"), []layer{base}, []string{bridges[bus] + "/" + slot}); err != nil {
		t.Fatal(err)
	}
	m.start("one")
	if got := m.wait("one", ""); got != 0 {
		t.Errorf("status is %d", got)
	}
}

// busOfBridge finds a bridge on the root bus and the bus behind it.
var busOfBridge = regexp.MustCompile(`0000:00:([0-9a-f]{2})\.0/pci_bus/(0000:[0-9a-f]{2})`)
