package ocispec

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var guest = Guest{IPC: "/run/sandbox-ns/ipc", UTS: "/run/sandbox-ns/uts", Rootfs: "/run/kata-containers/c/rootfs", ContainerID: "c"}

// full is a specification that uses every part of the protocol.
func full() *agentpb.Spec {
	return &agentpb.Spec{
		Version: "1.1.0", Hostname: "example", Annotations: map[string]string{"io.kubernetes.cri.container-type": "container"},
		Process: &agentpb.Process{
			Terminal: true, ConsoleSize: &agentpb.Box{Height: 24, Width: 80}, User: &agentpb.User{UID: 1, GID: 2, AdditionalGids: []uint32{3}},
			Args: []string{"/bin/busybox", "tail"}, Env: []string{"PATH=/bin"}, NoNewPrivileges: true,
			Capabilities: &agentpb.LinuxCapabilities{Bounding: []string{"CAP_CHOWN"}, Effective: []string{"CAP_CHOWN"}},
			Rlimits:      []*agentpb.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 2, Soft: 1}}, OOMScoreAdj: 985,
		},
		Root:   &agentpb.Root{Path: "/run/kata-containers/shared/containers/c", Readonly: true},
		Mounts: []*agentpb.Mount{{Destination: "/proc", Source: "proc", Type: "proc", Options: []string{"nosuid"}}},
		Hooks:  &agentpb.Hooks{Prestart: []*agentpb.Hook{{Path: "/hook", Args: []string{"x"}, Timeout: 3}}, Poststop: []*agentpb.Hook{{Path: "/stop"}}},
		Linux: &agentpb.Linux{
			Sysctl:      map[string]string{"net.ipv4.ip_unprivileged_port_start": "0", "kernel.shmmax": "1"},
			CgroupsPath: "kubepods-pod1.slice:cri-containerd:c",
			Namespaces:  []*agentpb.LinuxNamespace{{Type: "ipc", Path: "/proc/1/ns/ipc"}, {Type: "network", Path: "/var/run/netns/x"}, {Type: "mount"}},
			Devices:     []*agentpb.LinuxDevice{{Path: "/dev/x", Type: "b", Major: 8, Minor: 1}},
			MaskedPaths: []string{"/proc/kcore"}, ReadonlyPaths: []string{"/proc/sys"}, RootfsPropagation: "rslave",
			Resources: &agentpb.LinuxResources{
				Devices: []*agentpb.LinuxDeviceCgroup{{Access: "rwm", Major: -1, Minor: -1}, {Allow: true, Type: "b", Major: 8, Minor: 1, Access: "rw"}},
				Memory:  &agentpb.LinuxMemory{Limit: 52428800}, CPU: &agentpb.LinuxCPU{Shares: 204, Quota: 20000, Period: 100000, Cpus: "0"},
				Pids: &agentpb.LinuxPids{Limit: 100}, BlockIO: &agentpb.LinuxBlockIO{Weight: 500, ThrottleReadBpsDevice: []*agentpb.LinuxThrottleDevice{{Major: 8, Rate: 1000}}},
				HugepageLimits: []*agentpb.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4}},
			},
			Seccomp: &agentpb.LinuxSeccomp{
				DefaultAction: "SCMP_ACT_ERRNO", Architectures: []string{"SCMP_ARCH_X86_64"},
				Syscalls: []*agentpb.LinuxSyscall{{Names: []string{"read"}, Action: "SCMP_ACT_ALLOW", Args: []*agentpb.LinuxSeccompArg{{Index: 1, Value: 2, Op: "SCMP_CMP_EQ"}}, ErrnoRet: &agentpb.LinuxSyscall_Errnoret{Errnoret: 38}}},
			},
		},
	}
}

func TestSpecificationInTheGuest(t *testing.T) {
	for name, in := range map[string]*agentpb.Spec{
		"full":    full(),
		"minimal": {Process: &agentpb.Process{Args: []string{"true"}}, Root: &agentpb.Root{Path: "/r"}, Linux: &agentpb.Linux{}},
	} {
		t.Run(name, func(t *testing.T) {
			spec := New(in)
			sysctl, err := Fit(spec, guest)
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.MarshalIndent(struct {
				Spec   *specs.Spec
				Sysctl map[string]string
			}{spec, sysctl}, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name+".golden.json")
			if *update {
				if err := os.WriteFile(path, append(got, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if strings.TrimSpace(string(want)) != string(got) {
				t.Errorf("%s differs (rewrite it with -update):\n%s", path, got)
			}
		})
	}
}

func TestFitRefuses(t *testing.T) {
	for name, change := range map[string]func(*agentpb.Spec){
		"no process":        func(s *agentpb.Spec) { s.Process = nil },
		"no arguments":      func(s *agentpb.Spec) { s.Process.Args = nil },
		"no root":           func(s *agentpb.Spec) { s.Root = nil },
		"relative root":     func(s *agentpb.Spec) { s.Root.Path = "rootfs" },
		"no linux":          func(s *agentpb.Spec) { s.Linux = nil },
		"user namespace":    func(s *agentpb.Spec) { s.Linux.Namespaces = []*agentpb.LinuxNamespace{{Type: "user"}} },
		"relative mount":    func(s *agentpb.Spec) { s.Mounts[0].Destination = "proc" },
		"guest's parameter": func(s *agentpb.Spec) { s.Linux.Sysctl = map[string]string{"kernel.core_pattern": "|/x"} },
		"the pod's name":    func(s *agentpb.Spec) { s.Linux.Sysctl = map[string]string{"kernel.hostname": "x"} },
		"mount with dotdot": func(s *agentpb.Spec) { s.Mounts[0].Destination = "/a/../b" },
	} {
		s := full()
		change(s)
		if _, err := Fit(New(s), guest); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}

func TestCgroupPath(t *testing.T) {
	for in, want := range map[string]string{
		"": "/c", "/": "/c", "..": "/c", "/kubepods/pod1/c": "/kubepods/pod1/c", "kubepods/c": "/kubepods/c",
		"a.slice:cri-containerd:c": "/a.slice/cri-containerd/c", "../../etc": "/etc", "/a/../..": "/c",
	} {
		if got := CgroupPath(in, "c"); got != want {
			t.Errorf("CgroupPath(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzSysctlPath(f *testing.F) {
	f.Add("net.ipv4.conf.eth0/100.rp_filter")
	f.Add("net.../../../etc/passwd")
	f.Fuzz(func(t *testing.T, name string) {
		p, err := SysctlPath(name)
		if err == nil && !strings.HasPrefix(filepath.Clean(p), "/proc/sys/net/") && filepath.Clean(p) != "/proc/sys/net" {
			t.Errorf("%q is %q", name, p)
		}
	})
}

func TestSetDevice(t *testing.T) {
	spec := New(full())
	if err := SetDevice(spec, "/dev/x", os.DevNull); err != nil {
		t.Fatal(err)
	}
	d, rules := spec.Linux.Devices[0], spec.Linux.Resources.Devices
	if d.Major != 1 || d.Minor != 3 || *rules[1].Major != 1 || *rules[1].Minor != 3 || rules[2].Access != "rwm" {
		t.Errorf("device %+v, rules %+v", d, rules)
	}
	if err := SetDevice(spec, "/dev/y", os.DevNull); err == nil || !strings.Contains(err.Error(), "Missing devices in OCI spec") {
		t.Errorf("error is %v", err)
	}
}
