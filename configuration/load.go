package configuration

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/containerd/errdefs"
)

// Where the configuration is looked for, in this order, unless a runtime option
// names it.
const (
	envFile     = "KATA_CONF_FILE"
	siteFile    = "/etc/kata-containers/configuration.toml"
	defaultFile = "/usr/share/defaults/kata-containers/configuration.toml"

	dropInDir = "config.d" // beside the file
)

// maxVCPUs is what Cloud Hypervisor gives a guest at most.
const maxVCPUs = 240

// Find returns the path of the configuration file: explicit if it is not empty,
// else that of the environment variable KATA_CONF_FILE, else the first of
// /etc/kata-containers/configuration.toml and
// /usr/share/defaults/kata-containers/configuration.toml that exists. Symbolic
// links are resolved. A file that is named but missing is an error.
func Find(explicit string) (string, error) {
	for _, named := range []string{explicit, os.Getenv(envFile)} {
		if named == "" {
			continue
		}
		path, err := filepath.EvalSymlinks(named)
		if err != nil {
			return "", fmt.Errorf("find configuration: %w: %w", err, errdefs.ErrNotFound)
		}
		return path, nil
	}
	for _, candidate := range []string{siteFile, defaultFile} {
		path, err := filepath.EvalSymlinks(candidate)
		if err == nil {
			return path, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("find configuration: %w", err)
		}
	}
	return "", fmt.Errorf("find configuration: neither %s nor %s exists: %w", siteFile, defaultFile, errdefs.ErrNotFound)
}

// Load reads the file and what lies in config.d beside it (*.toml, in the order
// of their names, each key replacing an earlier one), and checks the result. All
// files that it names must exist.
func Load(path string) (*Config, error) {
	c, err := load(path)
	if err != nil {
		return nil, fmt.Errorf("load configuration: %w", err)
	}
	return c, nil
}

func load(path string) (*Config, error) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	c := &Config{Path: path, hostCPUs: runtime.NumCPU(), hostMemoryMiB: hostMemory()}
	if c.DropIns, err = dropIns(filepath.Join(filepath.Dir(path), dropInDir)); err != nil {
		return nil, err
	}
	f := defaults()
	for _, p := range append([]string{path}, c.DropIns...) {
		data, err := os.ReadFile(p)
		if err != nil {
			return nil, err
		}
		warnings, err := f.decode(p, string(data))
		if err != nil {
			return nil, err
		}
		c.Warnings = append(c.Warnings, warnings...)
	}
	if err := f.check(c); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// dropIns lists the files to read over the main one.
func dropIns(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries { // sorted by name
		if !e.IsDir() && filepath.Ext(e.Name()) == ".toml" && !strings.HasPrefix(e.Name(), ".") {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	return files, nil
}

// decode reads one file over what f holds already.
func (f *file) decode(path, text string) (warnings []string, err error) {
	var all map[string]any
	_, _ = toml.Decode(text, &all) // the error is the next one's too
	meta, err := toml.Decode(text, f)
	var parse toml.ParseError
	if errors.As(err, &parse) {
		return nil, fmt.Errorf("%s:%d: %s: %w", path, parse.Position.Line, parse.Message, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, err, errdefs.ErrInvalidArgument)
	}
	f.haveCLH = f.haveCLH || meta.IsDefined("hypervisor", "clh")
	var errs []error
	for _, key := range meta.Undecoded() {
		at := fmt.Sprintf("%s:%d: ", path, lineOf(text, key))
		warning, err := judge(key, all)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s%w: %w", at, err, errdefs.ErrInvalidArgument))
		case warning != "":
			warnings = append(warnings, at+warning)
		}
	}
	return warnings, errors.Join(errs...)
}

// rule is a condition that a configuration must not meet.
type rule struct {
	broken bool
	text   string
}

// check turns what was read into a Config.
func (f *file) check(c *Config) error {
	if !f.haveCLH {
		return fmt.Errorf("no table [hypervisor.clh]: %w", errdefs.ErrInvalidArgument)
	}
	h, a, r := f.Hypervisor.CLH, f.Agent.Kata, f.Runtime
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...))
	}
	for _, p := range []struct{ key, path string }{{"path", h.Path}, {"kernel", h.Kernel}, {"initrd", h.Initrd}, {"image", h.Image}, {"igvm", h.IGVM}} {
		if err := checkPath(p.path); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.key, err))
		}
	}
	rules := []rule{
		{h.Path == "", "path is missing: which VMM to run"},
		{!h.ConfidentialGuest && h.Kernel == "", "kernel is missing: what the guest boots"},
		{!h.ConfidentialGuest && (h.Initrd == "") == (h.Image == "") && (h.Image == "" || !strings.Contains(" "+h.KernelParams, " kata.root_hash=")),
			"one of initrd and image must be set, and both only with kata.root_hash= in kernel_params"},
		{h.SharedFS != "none", `shared_fs must be "none": the guest shares no files with the host`},
		{h.BlockDeviceDriver != "virtio-blk", `block_device_driver must be "virtio-blk"`},
		{h.DisableBlockDeviceUse, "disable_block_device_use must be false: layers are block devices"},
		{h.DefaultVCPUs < 0, "default_vcpus must not be negative"},
		{!r.StaticSizing && h.ConfidentialGuest, "static_sandbox_resource_mgmt must be true for a confidential guest: its memory is measured, and it takes no more into use"},
		{r.DefaultWorkloadVCPUs < 0, "static_sandbox_default_workload_vcpus must not be negative"},
		{r.DisableNewNetNS && r.Model != "none", `disable_new_netns needs internetworking_model = "none"`},
		{!slices.Contains([]string{"default", "tcfilter", "none"}, r.Model), `internetworking_model must be "tcfilter" or "none"`},
		{r.OCIVersion != "" && !ociVersion.MatchString(r.OCIVersion), `oci_version must be a version such as "1.1.0"`},
	}
	for _, rule := range slices.Concat(rules, checkConfidential(h), checkRates(h)) {
		if rule.broken {
			bad("%s", rule.text)
		}
	}
	for _, e := range h.EnableAnnotations {
		re, err := regexp.Compile(`^(?:` + e + `)$`)
		if err != nil {
			bad("enable_annotations: %v", err)
			continue
		}
		c.enabled = append(c.enabled, re)
	}
	c.Warnings = append(c.Warnings, withoutEffect(h, a)...)
	if r.StaticSizing && h.DefaultMaxMemory != 0 {
		c.Warnings = append(c.Warnings, "default_maxmemory has no effect with static_sandbox_resource_mgmt = true: a machine keeps the size it boots with")
	}
	f.fill(c, h, a, r)
	return errors.Join(errs...)
}

var ociVersion = regexp.MustCompile(`^1\.\d+\.\d+(-[0-9a-z.]+)?$`)

func (f *file) fill(c *Config, h clhTable, a agentTable, r runtimeTable) {
	if h.DefaultVCPUs > float64(c.hostCPUs) {
		h.DefaultVCPUs = float64(c.hostCPUs)
	}
	c.Hypervisor = Hypervisor{
		Path: h.Path, Kernel: h.Kernel, Initrd: h.Initrd, Image: h.Image, KernelParams: h.KernelParams,
		DefaultVCPUs: h.DefaultVCPUs, DefaultMaxVCPUs: h.DefaultMaxVCPUs, DefaultMemoryMiB: uint64(h.DefaultMemory),
		DefaultMaxMemoryMiB: h.DefaultMaxMemory,
		Confidential:        h.ConfidentialGuest, IGVM: h.IGVM, Hugepages: h.EnableHugepages,
		DiskRate: rate(h.DiskBandwidth, h.DiskBandwidthBurst, h.DiskOps, h.DiskOpsBurst),
		NICRate:  rate(h.NetBandwidth, h.NetBandwidthBurst, h.NetOps, h.NetOpsBurst),
		Debug:    h.EnableDebug, DisableSeccomp: h.DisableSeccomp, EnableAnnotations: h.EnableAnnotations,
	}
	if info, err := os.Stat(h.Initrd); err == nil { // it has been looked at before
		c.initrdBytes = info.Size()
	}
	if h.ConfidentialGuest {
		c.Hypervisor.Kernel, c.Hypervisor.KernelParams = "", ""
	}
	c.Agent = Agent{
		Debug: a.EnableDebug, DebugConsole: a.DebugConsoleEnabled, KernelModules: a.KernelModules,
		DialTimeout: time.Duration(a.DialTimeout) * time.Second,
	}
	c.Runtime = Runtime{
		Debug: r.EnableDebug, Network: TCFilter, DisableGuestSeccomp: r.DisableGuestSeccomp, OCIVersion: r.OCIVersion,
		StaticSizing:       r.StaticSizing,
		DefaultWorkloadMiB: uint64(r.DefaultWorkloadMem), DefaultWorkloadVCPUs: r.DefaultWorkloadVCPUs,
		CreateContainerTimeout: time.Duration(r.CreateContainerTimeout) * time.Second,
		AllowMissingPolicy:     r.AllowMissingPolicy,
	}
	if r.Model == "none" {
		c.Runtime.Network = NoNetwork
	}
}

func checkPath(path string) error {
	if path == "" {
		return nil
	}
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%q is not an absolute path: %w", path, errdefs.ErrInvalidArgument)
	}
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	if !info.Mode().IsRegular() || info.Size() == 0 {
		return fmt.Errorf("%s is not a regular file with content: %w", path, errdefs.ErrInvalidArgument)
	}
	return nil
}
