package configuration

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// install makes the files that a configuration names in a directory and returns
// the directory.
func install(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"vmm", "kernel", "initrd"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// base is the shortest configuration, for files in dir.
func base(dir string) string {
	return strings.ReplaceAll("[hypervisor.clh]\npath = \"DIR/vmm\"\nkernel = \"DIR/kernel\"\ninitrd = \"DIR/initrd\"\n", "DIR", dir)
}

func loadText(t testing.TB, text string) (*Config, error) {
	t.Helper()
	dir := install(t)
	path := filepath.Join(dir, "configuration.toml")
	write(t, path, strings.ReplaceAll(base(dir)+text, "DIR", dir))
	return Load(path)
}

func TestDefaults(t *testing.T) {
	c, err := loadText(t, "")
	if err != nil {
		t.Fatal(err)
	}
	if c.Hypervisor.DefaultVCPUs != 1 || c.Hypervisor.DefaultMemoryMiB != 2048 || c.Agent.DialTimeout != 45*time.Second ||
		c.Runtime.Network != TCFilter || c.Runtime.CreateContainerTimeout != time.Minute || c.KernelParams() != "" || len(c.Warnings) != 0 {
		t.Errorf("defaults: %+v", c)
	}
}

func TestKeysHaveEffect(t *testing.T) {
	c, err := loadText(t, `
kernel_params = "foo=bar"
default_vcpus = 0.5
default_memory = 256
enable_debug = true
disable_seccomp = true
machine_type = "q35"
igvm = ""
[agent.kata]
enable_debug = true
debug_console_enabled = true
kernel_modules = ["nbd max_part=8"]
dial_timeout = 7
[runtime]
internetworking_model = "none"
disable_new_netns = true
disable_guest_seccomp = true
oci_version = "1.1.0-rc.1"
create_container_timeout = 5
enable_pprof = false
enable_vcpus_pinning = false
[factory]
enable_template = false
`)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := c.KernelParams(), "agent.log=debug agent.debug_console agent.debug_console_vport=1026 foo=bar"; got != want {
		t.Errorf("kernel parameters %q, want %q", got, want)
	}
	if c.Runtime.OCIVersion != "1.1.0-rc.1" || c.Runtime.Network != NoNetwork || c.Agent.DialTimeout != 7*time.Second ||
		c.Hypervisor.DefaultVCPUs != 0.5 || !c.Hypervisor.DisableSeccomp || len(c.Agent.KernelModules) != 1 {
		t.Errorf("%+v", c)
	}
	warned := strings.Join(c.Warnings, "\n")
	for _, want := range []string{"machine_type", "enable_pprof", "factory.enable_template"} {
		if !strings.Contains(warned, want) {
			t.Errorf("no warning of %s in:\n%s", want, warned)
		}
	}
	if len(c.Warnings) != 3 {
		t.Errorf("%d warnings, want 3:\n%s", len(c.Warnings), warned)
	}
}

func TestInitrdThatOpensTheImage(t *testing.T) {
	c, err := loadText(t, "image = \"DIR/initrd\"\nkernel_params = \"quiet kata.root_hash=ab\"")
	if err != nil {
		t.Fatal(err)
	}
	if c.Hypervisor.Initrd == "" || c.Hypervisor.Image == "" {
		t.Errorf("initrd is %q, image is %q; want both", c.Hypervisor.Initrd, c.Hypervisor.Image)
	}
}

func TestMistakesAreNamed(t *testing.T) {
	for text, want := range map[string]string{
		"kernel_parms = \"x\"":                            `configuration.toml:5: unknown key "kernel_parms" in table [hypervisor.clh]; did you mean "kernel_params"?`,
		"\n[agent.kata]\ndebug_console_enable = true":     `:7: unknown key "debug_console_enable" in table [agent.kata]; did you mean "debug_console_enabled"?`,
		"\n[runtime]\nxyzzy = 1":                          `:7: unknown key "xyzzy" in table [runtime]: `,
		"\n[runtimes]\nenable_debug = true":               `:6: unknown table [runtimes]; did you mean "runtime"?`,
		"\n[hypervisor.qemu]\npath = \"/x\"":              ":6: table [hypervisor.qemu]: the one hypervisor is [hypervisor.clh]",
		"\n[agent.other]\nenable_debug = true":            "unknown table [agent.other]",
		"default_vcpus = \"two\"":                         "line 5 ",
		"default_memory = -1":                             ":5: ",
		"default_vcpus = ":                                ":5: ",
		"confidential_guest = true":                       "confidential_guest",
		"sev_snp_guest = true":                            "sev_snp_guest = true needs confidential_guest = true",
		"confidential_guest = true\nsev_snp_guest = true": "igvm is missing",
		"igvm = \"DIR/initrd\"":                           "igvm needs confidential_guest = true",
		"snp_id_block = \"x\"":                            ":5: hypervisor.clh.snp_id_block = x cannot be had",
		"net_rate_limiter_bw_one_time_burst = 800":        "net_rate_limiter_bw_one_time_burst needs net_rate_limiter_bw_max_rate",
		"disk_rate_limiter_bw_max_rate = 7":               "less than a byte per second",
		"shared_fs = \"virtio-fs\"":                       "shared_fs must be \"none\"",
		"block_device_driver = \"virtio-scsi\"":           "block_device_driver",
		"image = \"DIR/initrd\"":                          "one of initrd and image",
		"enable_annotations = [\"(\"]":                    "enable_annotations",
		"confidential_guest = true\nsev_snp_guest = true\n[runtime]\nstatic_sandbox_resource_mgmt = false": "static_sandbox_resource_mgmt must be true for a confidential guest",
		"\n[runtime]\ninternetworking_model = \"macvtap\"":                                                 "internetworking_model",
		"\n[runtime]\ndisable_new_netns = true":                                                            "disable_new_netns",
		"\n[runtime]\nexperimental = [\"x\"]":                                                              ":7: runtime.experimental = [x] cannot be had",
	} {
		_, err := loadText(t, text)
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v\nwant an invalid argument that says %q", text, err, want)
		}
	}
}

func TestNamedFilesMustExist(t *testing.T) {
	dir := install(t)
	path := filepath.Join(dir, "configuration.toml")
	for missing, want := range map[string]string{"/kernel": "kernel: ", "/vmm": "path: ", "/initrd": "initrd: "} {
		write(t, path, strings.Replace(base(dir), dir+missing, dir+missing+".gone", 1))
		if _, err := Load(path); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("without %s: %v, want not found that says %q", missing, err, want)
		}
	}
	write(t, path, strings.Replace(base(dir), dir+"/kernel", "kernel", 1))
	if _, err := Load(path); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "absolute") {
		t.Errorf("relative path: %v, want an invalid argument", err)
	}
	write(t, path, "[runtime]\n")
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "no table [hypervisor.clh]") {
		t.Errorf("without a hypervisor: %v", err)
	}
	if _, err := Load(path + ".gone"); !errdefs.IsNotFound(err) {
		t.Errorf("without a file: %v, want not found", err)
	}
}

func TestDropInsReplaceKeys(t *testing.T) {
	dir := install(t)
	path := filepath.Join(dir, "configuration.toml")
	write(t, path, base(dir)+"kernel_params = \"a\"\nenable_annotations = [\"default_memory\", \"default_vcpus\"]\n")
	write(t, filepath.Join(dir, "config.d/20-b.toml"), "[hypervisor.clh]\nkernel_params = \"c\"\n")
	write(t, filepath.Join(dir, "config.d/10-a.toml"), "[hypervisor.clh]\nkernel_params = \"b\"\ndefault_memory = 512\nenable_annotations = [\"kernel_params\"]\n")
	write(t, filepath.Join(dir, "config.d/.hidden.toml"), "broken")
	write(t, filepath.Join(dir, "config.d/10-a.toml~"), "broken")
	write(t, filepath.Join(dir, "config.d/dir.toml/x"), "broken")
	link := filepath.Join(t.TempDir(), "link.toml") // drop-ins lie beside the file itself
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	c, err := Load(link)
	if err != nil {
		t.Fatal(err)
	}
	if c.Hypervisor.KernelParams != "c" || c.Hypervisor.DefaultMemoryMiB != 512 || len(c.DropIns) != 2 ||
		len(c.Hypervisor.EnableAnnotations) != 1 || c.Hypervisor.EnableAnnotations[0] != "kernel_params" {
		t.Errorf("%+v", c)
	}
	write(t, filepath.Join(dir, "config.d/30-c.toml"), "[runtime]\n\nenable_debugs = true\n")
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), "config.d/30-c.toml:3: unknown key") {
		t.Errorf("%v, want the drop-in and its line", err)
	}
}

func TestFind(t *testing.T) {
	dir := install(t)
	explicit, env := filepath.Join(dir, "a.toml"), filepath.Join(dir, "b.toml")
	write(t, explicit, "")
	write(t, env, "")
	t.Setenv("KATA_CONF_FILE", env)
	if got, err := Find(explicit); got != explicit || err != nil {
		t.Errorf("Find = %q, %v, want the one that was named", got, err)
	}
	if got, err := Find(""); got != env || err != nil {
		t.Errorf("Find = %q, %v, want that of the environment", got, err)
	}
	if _, err := Find(explicit + ".gone"); !errdefs.IsNotFound(err) {
		t.Errorf("Find of a missing file: %v, want not found", err)
	}
}

// The shipped templates name files of an installed system.
func TestTemplatesLoad(t *testing.T) {
	for _, name := range []string{"configuration-clh.toml", "configuration-clh-qemu.toml"} {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		dir := install(t)
		text := string(data)
		for from, to := range map[string]string{
			"/usr/bin/cloud-hypervisor": "vmm", "/usr/local/bin/clh-qemu": "vmm",
			"/usr/share/kata-cc/vmlinuz": "kernel", "/usr/share/kata-cc/initrd.img": "initrd",
		} {
			text = strings.ReplaceAll(text, from, filepath.Join(dir, to))
		}
		path := filepath.Join(dir, name)
		write(t, path, text)
		c, err := Load(path)
		if err != nil || len(c.Warnings) != 0 {
			t.Errorf("%s: %v, %v", name, err, c)
		}
		// What is commented out shows defaults, so it must be known as well.
		uncommented := strings.Builder{}
		for line := range strings.Lines(text) {
			if key, ok := strings.CutPrefix(line, "# "); ok && strings.Contains(key, " = ") && !strings.HasPrefix(key, "image") {
				line = key
			}
			uncommented.WriteString(line)
		}
		write(t, path, uncommented.String())
		if all, err := Load(path); err != nil || len(all.Warnings) != 0 {
			t.Errorf("%s with its comments: %v, %v", name, err, all)
		}
	}
}

func TestSize(t *testing.T) {
	quota, period, limit := int64(150000), uint64(100000), int64(100<<20)
	pod := func(cpu, memory string) Workload {
		return PodWorkload(map[string]string{annotationCPUPeriod: "100000", annotationCPUQuota: cpu, annotationMemory: memory})
	}
	for name, c := range map[string]struct {
		keys string
		load Workload
		want Size
	}{
		"a pod of 0.2 processors and 50 MiB": {"default_memory = 2048\n", pod("20000", "52428800"), Size{2, 2098}},
		"no limits":                          {"default_memory = 512\n", Workload{}, Size{1, 512}},
		"workload defaults":                  {"default_memory = 512\n[runtime]\nstatic_sandbox_default_workload_mem = 256\nstatic_sandbox_default_workload_vcpus = 1.5\n", Workload{}, Size{3, 768}},
		"defaults give way to limits":        {"default_memory = 512\n[runtime]\nstatic_sandbox_default_workload_mem = 256\n", pod("0", "1048576"), Size{1, 513}},
		"only the workload":                  {"default_vcpus = 0\ndefault_memory = 0\n", pod("200000", "1073741824"), Size{2, 1024}},
		"huge pages":                         {"default_memory = 511\nenable_hugepages = true\n", Workload{}, Size{1, 512}},
		"as many as there can be":            {"default_vcpus = 0\n", pod("24000000", "0"), Size{240, 2048}},
		"nothing at all":                     {"default_vcpus = 0\ndefault_memory = 0\n", Workload{}, Size{1, 2048}},
		"limited":                            {"default_maxvcpus = 4\n", pod("6400000", "0"), Size{4, 2048}},
		"not numbers":                        {"", pod("x", "-5"), Size{1, 2048}},
		"no quota":                           {"", pod("-1", ""), Size{1, 2048}},
		"a single container": {"", ContainerWorkload(&specs.LinuxResources{
			CPU: &specs.LinuxCPU{Quota: &quota, Period: &period}, Memory: &specs.LinuxMemory{Limit: &limit}}), Size{3, 2148}},
		"a container without limits": {"", ContainerWorkload(nil), Size{1, 2048}},
	} {
		cfg, err := loadText(t, c.keys)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got, err := cfg.Size(c.load); err != nil || got != c.want {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, c.want)
		}
	}
}

func TestSizesThatDoNotBootAreRefused(t *testing.T) {
	few, period, much := int64(1<<20), uint64(100000), int64(math.MaxInt64)
	pod := func(cpu, memory string) Workload {
		return PodWorkload(map[string]string{annotationCPUPeriod: "100000", annotationCPUQuota: cpu, annotationMemory: memory})
	}
	for name, c := range map[string]struct {
		keys string
		load Workload
		want []string
	}{
		"a pod of 50 MiB":      {"default_memory = 0\n", pod("0", "52428800"), []string{"50 MiB does not boot", "resources.limits.memory", annotationMemory}},
		"nearly enough":        {"default_memory = 97\n", Workload{}, []string{"97 MiB does not boot", "a guest takes 98 "}}, // the ramdisk of a byte counts as a MiB, twice
		"a default too small":  {"default_memory = 1\n", pod("0", "0"), []string{"default_memory is 1 MiB", "static_sandbox_default_workload_mem is 0 MiB"}},
		"too many processors":  {"", pod("24000000", "0"), []string{"241 processors", "resources.limits.cpu", "the most is 240"}},
		"no end of memory":     {"", ContainerWorkload(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &much}}), []string{"linux.resources.memory.limit"}},
		"no end of processors": {"", ContainerWorkload(&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &much, Period: &period}}), []string{"linux.resources.cpu"}},
		"a tiny container":     {"default_memory = 90\n", ContainerWorkload(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &few}}), []string{"91 MiB"}},
	} {
		cfg, err := loadText(t, c.keys)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		size, err := cfg.Size(c.load)
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %+v, %v, want invalid argument", name, size, err)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v\ndoes not say %q", name, err, want)
			}
		}
	}
}
