package cluster

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/template"
)

// containerdConfig is what an operator adds to containerd's configuration for
// kata-cc, and private paths for the rest. A containerd before 2.3 refuses the
// containers of a handler that has both a sandboxer and options that are not
// runc's; there the shim finds its configuration by itself.
var containerdConfig = template.Must(template.New("containerd.toml").Parse(`version = 3
root = '{{.Dir}}/root'
state = '{{.Dir}}/state'
temp = '{{.Dir}}/root/tmp'

[debug]
  level = 'debug'

[proxy_plugins.tardev]
  type = 'snapshot'
  address = '{{.TardevSocket}}'
[proxy_plugins.tardev-differ]
  type = 'diff'
  address = '{{.TardevSocket}}'
[plugins.'io.containerd.service.v1.diff-service']
  default = ['tardev-differ', 'walking']

[{{if .Servers}}plugins.'io.containerd.server.v1.grpc'{{else}}grpc{{end}}]
  address = '{{.Socket}}'
[{{if .Servers}}plugins.'io.containerd.server.v1.ttrpc'{{else}}ttrpc{{end}}]
  address = '{{.Socket}}.ttrpc'
[plugins.'io.containerd.internal.v1.opt']
  path = '{{.Dir}}/opt'
[plugins.'io.containerd.nri.v1.nri']
  disable = true

[plugins.'io.containerd.cri.v1.images']
  snapshotter = 'tardev'
  disable_snapshot_annotations = false
  use_local_image_pull = true
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = '{{.Pause}}'
  [plugins.'io.containerd.cri.v1.images'.registry]
    config_path = '{{.Dir}}/hosts'

[plugins.'io.containerd.cri.v1.runtime']
  netns_mounts_under_state_dir = true
  enable_unprivileged_ports = false
  enable_unprivileged_icmp = false
  cdi_spec_dirs = []
  disable_hugetlb_controller = false
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ['{{.Tools}}']
    conf_dir = '{{.Dir}}/cni'
  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = 'kata-cc'
{{- range $handler, $config := .Handlers}}
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.{{$handler}}]
      runtime_type = 'io.containerd.kata-cc.v2'
      snapshotter = 'tardev'
      privileged_without_host_devices = true
{{- if index $.Sandboxed $handler}}
      sandboxer = 'shim'
      disable_pause_image_pull = true
{{- end}}
      pod_annotations = ['io.katacontainers.*']
{{- if or $.Servers (not (index $.Sandboxed $handler))}}
      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.{{$handler}}.options]
        ConfigPath = '{{$config}}'
{{- end}}
{{- end}}
`))

// writeFiles writes every configuration file of the cluster.
func (c *Cluster) writeFiles(_ context.Context, o Options) error {
	handlers := map[string]Kata{Handler: o.Kata, SandboxHandler: o.Kata}
	maps.Copy(handlers, o.Handlers)
	configs, files, sandboxed := map[string]string{}, map[string]string{}, map[string]bool{}
	for handler, kata := range handlers {
		configs[handler] = c.KataConfig(handler)
		sandboxed[handler] = strings.HasPrefix(handler, SandboxHandler)
		files[filepath.Base(configs[handler])] = c.kata(kata)
	}
	var containerd strings.Builder
	err := containerdTemplate(c.containerd).Execute(&containerd, map[string]any{
		"Dir": c.Dir, "Socket": c.socket(), "TardevSocket": c.tardevSocket(),
		"Tools": c.Paths.Tools, "Pause": PauseImage, "Handlers": configs,
		"Sandboxed": sandboxed, "Differ": hasProxyDiffers(c.containerd), "Servers": hasServerPlugins(c.containerd),
	})
	if err != nil {
		return err
	}
	var env strings.Builder
	for _, e := range c.environment() {
		key, value, _ := strings.Cut(e, "=")
		fmt.Fprintf(&env, "export %s='%s'\n", key, value)
	}
	for _, host := range o.registries() {
		files["hosts/"+host+"/hosts.toml"] = fmt.Sprintf("server = 'http://%[1]s'\n[host.'http://%[1]s']\n  capabilities = ['pull', 'resolve']\n", c.Registry)
	}
	maps.Copy(files, map[string]string{
		"containerd.toml":        containerd.String(),
		"cni/10-bridge.conflist": c.conflist(),
		"crictl.yaml":            fmt.Sprintf("runtime-endpoint: unix://%[1]s\nimage-endpoint: unix://%[1]s\ntimeout: 120\n", c.socket()),
		"env":                    env.String(),
	})
	for name, text := range files {
		if err := os.WriteFile(c.dir(name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// kata is the runtime's configuration: the least that a node needs, plus the
// debug console, plus what the caller adds.
func (c *Cluster) kata(more Kata) string {
	tables := Kata{
		"hypervisor.clh": {
			"path":                c.VMM.Path,
			"kernel":              filepath.Join(c.Paths.Guest, "vmlinux"),
			"shared_fs":           "none",
			"block_device_driver": "virtio-blk",
			"default_vcpus":       1,
			"default_memory":      512,
		},
		"agent.kata": {"debug_console_enabled": true, "dial_timeout": 60},
		"runtime":    {"internetworking_model": "tcfilter", "disable_guest_seccomp": true, "enable_debug": true},
	}
	maps.Copy(tables["hypervisor.clh"], c.Paths.Debug().OnDisk())
	for table, keys := range more {
		if tables[table] == nil {
			tables[table] = map[string]any{}
		}
		maps.Copy(tables[table], keys)
	}
	var b strings.Builder
	for _, table := range slices.Sorted(maps.Keys(tables)) {
		fmt.Fprintf(&b, "[%s]\n", table)
		for _, key := range slices.Sorted(maps.Keys(tables[table])) {
			value := tables[table][key]
			if value == nil { // a key that the caller takes away
				continue
			}
			if s, ok := value.(string); ok {
				value = strconv.Quote(s)
			}
			fmt.Fprintf(&b, "%s = %v\n", key, value)
		}
		b.WriteByte('\n')
	}
	return b.String()
}
