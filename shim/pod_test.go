package shim

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/kata-cc/kata-cc/shim/sandboxpb"
)

func examplePod() *sandboxpb.PodSandboxConfig {
	return &sandboxpb.PodSandboxConfig{
		Hostname:    "example",
		DnsConfig:   &sandboxpb.PodSandboxConfig_DNS{Servers: []string{"192.0.2.1", "192.0.2.2"}, Searches: []string{"a.test", "b.test"}, Options: []string{"ndots:5"}},
		Annotations: map[string]string{"key": "value"},
		Linux: &sandboxpb.PodSandboxConfig_Linux{
			CgroupParent: "/kubepods/pod1",
			Sysctls:      map[string]string{"kernel.shm_rmid_forced": "1"},
			Resources:    &sandboxpb.PodSandboxConfig_Resources{CpuPeriod: 100000, CpuQuota: 150000, MemoryLimitInBytes: 64 << 20},
		},
	}
}

func TestPodOfCRI(t *testing.T) {
	value, err := proto.Marshal(examplePod())
	if err != nil {
		t.Fatal(err)
	}
	config, err := podConfig(&anypb.Any{TypeUrl: podConfigType, Value: value})
	if err != nil {
		t.Fatal(err)
	}
	bundle := t.TempDir()
	files, err := writePodFiles(bundle, config)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"hostname":    "example\n",
		"resolv.conf": "search a.test b.test\nnameserver 192.0.2.1\nnameserver 192.0.2.2\noptions ndots:5\n",
	} {
		if got, err := os.ReadFile(filepath.Join(bundle, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	spec := podSpec(&sandboxpb.CreateSandboxRequest{SandboxId: "id", NetnsPath: "/run/netns/a"}, config, files)
	want := map[string]string{
		"key": "value", "io.kubernetes.cri.sandbox-cpu-period": "100000",
		"io.kubernetes.cri.sandbox-cpu-quota": "150000", "io.kubernetes.cri.sandbox-memory": "67108864",
	}
	if !maps.Equal(spec.Annotations, want) {
		t.Errorf("annotations %v", spec.Annotations)
	}
	if spec.Linux.CgroupsPath != "/kubepods/pod1/id" || netNS(spec) != "/run/netns/a" || hostNetwork(spec) {
		t.Errorf("%+v", spec.Linux)
	}

	config.Linux.CgroupParent = "/kubepods.slice/kubepods-pod1.slice"
	spec = podSpec(&sandboxpb.CreateSandboxRequest{SandboxId: "id"}, config, files)
	if spec.Linux.CgroupsPath != "kubepods-pod1.slice:cri-containerd:id" || !hostNetwork(spec) {
		t.Errorf("%+v", spec.Linux)
	}
}

func TestContainersOfAPodSeeItsFilesUnlessTheyHaveTheirOwn(t *testing.T) {
	files := podFiles{"/etc/hosts": "/b/hosts", "/etc/resolv.conf": "/b/resolv.conf", "/etc/hostname": "/b/hostname"}
	spec := &specs.Spec{Mounts: []specs.Mount{
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm"},
		{Destination: "/etc/hosts", Type: "bind", Source: "/var/lib/kubelet/hosts"},
	}}
	files.addTo(spec)
	var got []string
	for _, m := range spec.Mounts {
		got = append(got, m.Type+" "+m.Source+" "+m.Destination)
	}
	want := []string{
		"bind /dev/shm /dev/shm", "bind /var/lib/kubelet/hosts /etc/hosts",
		"bind /b/hostname /etc/hostname", "bind /b/resolv.conf /etc/resolv.conf",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// Without a pause container, whose specification would have them, the kernel
// parameters of the pod's namespaces are set with each container.
func TestContainersOfAPodHaveItsKernelParameters(t *testing.T) {
	p := &pod{sysctls: examplePod().Linux.Sysctls}
	spec := &specs.Spec{}
	p.addTo(spec)
	if !maps.Equal(spec.Linux.Sysctl, map[string]string{"kernel.shm_rmid_forced": "1"}) {
		t.Errorf("%v", spec.Linux.Sysctl)
	}
	spec = &specs.Spec{Linux: &specs.Linux{Sysctl: map[string]string{"kernel.shm_rmid_forced": "0", "kernel.sem": "1 2 3 4"}}}
	p.addTo(spec)
	if !maps.Equal(spec.Linux.Sysctl, map[string]string{"kernel.shm_rmid_forced": "0", "kernel.sem": "1 2 3 4"}) {
		t.Errorf("a container's own: %v", spec.Linux.Sysctl)
	}
	if p.sysctls["kernel.sem"] != "" {
		t.Error("one container's parameters became the pod's")
	}
}

func FuzzPodConfig(f *testing.F) {
	value, err := proto.Marshal(examplePod())
	if err != nil {
		f.Fatal(err)
	}
	f.Add("runtime.v1.PodSandboxConfig", value)
	f.Add("type.test/other", []byte{0xff})
	f.Fuzz(func(t *testing.T, kind string, value []byte) {
		c, err := podConfig(&anypb.Any{TypeUrl: kind, Value: value})
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Error(err)
			}
			return
		}
		podSpec(&sandboxpb.CreateSandboxRequest{SandboxId: "id"}, c, podFiles{})
	})
}

func TestMetricsOfAProcess(t *testing.T) {
	m, err := processMetrics(os.Getpid())
	if err != nil || m.Memory.Usage == 0 {
		t.Errorf("%+v, %v", m, err)
	}
	if _, err = processMetrics(0); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("none: %v", err)
	}
	m, err = parseStat([]byte("7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 0 0 20 0 1 0 100 200 300 400"))
	if err != nil || m.CPU.UserUsec != 1_500_000 || m.CPU.SystemUsec != 500_000 || m.Memory.Usage != 300*uint64(os.Getpagesize()) {
		t.Errorf("%+v, %v", m, err)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("7 (a) S 1 7 7 0 -1 0 1 2 3 4 150 50 0 0 20 0 1 0 100 200 300"))
	f.Add([]byte(")"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if m, err := parseStat(text); (m == nil) == (err == nil) {
			t.Errorf("%q: %v, %v", text, m, err)
		}
	})
}
