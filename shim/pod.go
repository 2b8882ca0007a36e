package shim

import (
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/kata-cc/kata-cc/shim/sandboxpb"
)

// podConfigType is what CRI calls a pod's configuration.
const podConfigType = "runtime.v1.PodSandboxConfig"

// podConfig reads the options of CreateSandbox; a caller other than CRI has none.
func podConfig(options *anypb.Any) (*sandboxpb.PodSandboxConfig, error) {
	config := &sandboxpb.PodSandboxConfig{}
	if options.GetTypeUrl() == "" {
		return config, nil
	}
	if name := options.TypeUrl[strings.LastIndex(options.TypeUrl, "/")+1:]; name != podConfigType {
		return nil, fmt.Errorf("options are of type %s, want %s: %w", name, podConfigType, errdefs.ErrInvalidArgument)
	}
	if err := proto.Unmarshal(options.Value, config); err != nil {
		return nil, fmt.Errorf("read the pod's configuration: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return config, nil
}

// podFiles are the files that every container of a pod sees, by their place in
// the container. Without a pause container nobody else makes them.
type podFiles map[string]string

// writePodFiles makes them in the bundle, with which they go.
func writePodFiles(bundle string, c *sandboxpb.PodSandboxConfig) (podFiles, error) {
	hosts, err := os.ReadFile("/etc/hosts")
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("make the pod's files: %w", err)
	}
	resolv := resolvConf(c.GetDnsConfig())
	if resolv == nil {
		if resolv, err = os.ReadFile("/etc/resolv.conf"); err != nil && !os.IsNotExist(err) {
			return nil, fmt.Errorf("make the pod's files: %w", err)
		}
	}
	files := podFiles{}
	for name, text := range map[string][]byte{"hosts": hosts, "resolv.conf": resolv, "hostname": []byte(hostname(c) + "\n")} {
		file := filepath.Join(bundle, name)
		if err := os.WriteFile(file, text, 0o644); err != nil {
			return nil, fmt.Errorf("make the pod's files: %w", err)
		}
		files["/etc/"+name] = file
	}
	return files, nil
}

// hostname is the pod's name in the network.
func hostname(c *sandboxpb.PodSandboxConfig) string {
	if c.GetHostname() != "" {
		return c.GetHostname()
	}
	name, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return name
}

// resolvConf writes the resolver's file; nil if the pod says nothing of it.
func resolvConf(c *sandboxpb.PodSandboxConfig_DNS) []byte {
	var lines []string
	if len(c.GetSearches()) > 0 {
		lines = append(lines, "search "+strings.Join(c.GetSearches(), " "))
	}
	for _, s := range c.GetServers() {
		lines = append(lines, "nameserver "+s)
	}
	if len(c.GetOptions()) > 0 {
		lines = append(lines, "options "+strings.Join(c.GetOptions(), " "))
	}
	if lines == nil {
		return nil
	}
	return []byte(strings.Join(lines, "\n") + "\n")
}

// podSpec says of a pod what the specification of a pause container would.
func podSpec(r *sandboxpb.CreateSandboxRequest, c *sandboxpb.PodSandboxConfig, files podFiles) *specs.Spec {
	annotations := map[string]string{}
	for _, from := range []map[string]string{c.GetAnnotations(), r.Annotations} {
		for key, value := range from {
			annotations[key] = value
		}
	}
	if resources := c.GetLinux().GetResources(); resources != nil {
		for key, value := range map[string]int64{
			"cpu-period": resources.CpuPeriod, "cpu-quota": resources.CpuQuota, "memory": resources.MemoryLimitInBytes,
		} {
			annotations["io.kubernetes.cri.sandbox-"+key] = strconv.FormatInt(value, 10)
		}
	}
	spec := &specs.Spec{
		Hostname: hostname(c), Annotations: annotations,
		Mounts: []specs.Mount{bind("/etc/resolv.conf", files["/etc/resolv.conf"])},
		Linux:  &specs.Linux{},
	}
	if r.NetnsPath != "" {
		spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.NetworkNamespace, Path: r.NetnsPath}}
	}
	if parent := c.GetLinux().GetCgroupParent(); strings.HasSuffix(parent, ".slice") {
		spec.Linux.CgroupsPath = path.Base(parent) + ":cri-containerd:" + r.SandboxId
	} else if parent != "" {
		spec.Linux.CgroupsPath = path.Join(parent, r.SandboxId)
	}
	return spec
}

func bind(destination, source string) specs.Mount {
	return specs.Mount{Destination: destination, Type: "bind", Source: source, Options: []string{"rbind", "rprivate", "rw"}}
}

// addTo gives a container what it shares with the pod's others and would have
// from a pause container.
func (p *pod) addTo(spec *specs.Spec) {
	p.files.addTo(spec)
	if len(p.sysctls) == 0 {
		return
	}
	if spec.Linux == nil {
		spec.Linux = &specs.Linux{}
	}
	own := spec.Linux.Sysctl
	spec.Linux.Sysctl = maps.Clone(p.sysctls)
	maps.Copy(spec.Linux.Sysctl, own)
}

// addTo gives a container of the pod the pod's files and memory, where its
// specification names none of its own.
func (f podFiles) addTo(spec *specs.Spec) {
	for _, destination := range []string{"/etc/hostname", "/etc/hosts", "/etc/resolv.conf"} {
		if !slices.ContainsFunc(spec.Mounts, func(m specs.Mount) bool { return m.Destination == destination }) {
			spec.Mounts = append(spec.Mounts, bind(destination, f[destination]))
		}
	}
	for i, m := range spec.Mounts {
		if m.Destination == "/dev/shm" && m.Type == "tmpfs" {
			spec.Mounts[i] = bind("/dev/shm", "/dev/shm")
		}
	}
}
