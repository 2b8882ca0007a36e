package cluster

import (
	"os"
	"path/filepath"
	"strings"
	"text/template"
)

// Containerds are the versions of containerd that a cluster may run.
var Containerds = []string{"1.6", "1.7", "2.2", "2.4"}

// defaultContainerd is the version that lies with the other tools.
const defaultContainerd = "2.4"

// containerdDir is where the programs of a version are.
func (p Paths) containerdDir(version string) string {
	if version == "" || version == defaultContainerd {
		return p.Tools
	}
	return filepath.Join(p.Tools, "containerd-"+version)
}

// HasContainerd reports whether a version was built or fetched.
func (p Paths) HasContainerd(version string) bool {
	_, err := os.Stat(filepath.Join(p.containerdDir(version), "containerd"))
	return err == nil
}

// hasProxyDiffers reports whether a version can ask another process to apply
// layers. One that cannot unpacks them into the snapshotter's scratch directories.
func hasProxyDiffers(version string) bool { return version != "1.6" }

// hasServerPlugins reports whether a version is told by plugins where to listen.
func hasServerPlugins(version string) bool { return version == "" || version == defaultContainerd }

// HasSandboxers reports whether a version can make pods by the sandbox API.
func HasSandboxers(version string) bool { return !strings.HasPrefix(version, "1.") }

// containerdTemplate is the configuration for a version.
func containerdTemplate(version string) *template.Template {
	if HasSandboxers(version) {
		return containerdConfig
	}
	return containerdConfig2
}

// containerdConfig2 is containerdConfig in the form that containerd 1 reads.
var containerdConfig2 = template.Must(template.New("containerd.toml").Parse(`version = 2
root = '{{.Dir}}/root'
state = '{{.Dir}}/state'
temp = '{{.Dir}}/root/tmp'

[debug]
  level = 'debug'
[grpc]
  address = '{{.Socket}}'
[ttrpc]
  address = '{{.Socket}}.ttrpc'

[proxy_plugins.tardev]
  type = 'snapshot'
  address = '{{.TardevSocket}}'
{{- if .Differ}}
[proxy_plugins.tardev-differ]
  type = 'diff'
  address = '{{.TardevSocket}}'
[plugins.'io.containerd.service.v1.diff-service']
  default = ['tardev-differ', 'walking']
{{- end}}

[plugins.'io.containerd.internal.v1.opt']
  path = '{{.Dir}}/opt'
[plugins.'io.containerd.nri.v1.nri']
  disable = true

[plugins.'io.containerd.grpc.v1.cri']
  sandbox_image = '{{.Pause}}'
  netns_mounts_under_state_dir = true
  enable_unprivileged_ports = false
  enable_unprivileged_icmp = false
  disable_hugetlb_controller = false
  [plugins.'io.containerd.grpc.v1.cri'.registry]
    config_path = '{{.Dir}}/hosts'
  [plugins.'io.containerd.grpc.v1.cri'.cni]
    bin_dir = '{{.Tools}}'
    conf_dir = '{{.Dir}}/cni'
  [plugins.'io.containerd.grpc.v1.cri'.containerd]
    default_runtime_name = 'kata-cc'
    snapshotter = 'tardev'
    disable_snapshot_annotations = false
{{- range $handler, $config := .Handlers}}
    [plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.{{$handler}}]
      runtime_type = 'io.containerd.kata-cc.v2'
      privileged_without_host_devices = true
      pod_annotations = ['io.katacontainers.*']
      [plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.{{$handler}}.options]
        ConfigPath = '{{$config}}'
{{- end}}
`))
