package configuration

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// protected is a configuration of machines with protected memory.
func protected(t *testing.T, more string) (*Config, error) {
	t.Helper()
	dir := install(t)
	path := dir + "/configuration.toml"
	text := "[hypervisor.clh]\npath = \"DIR/vmm\"\nimage = \"DIR/kernel\"\nconfidential_guest = true\nsev_snp_guest = true\nigvm = \"DIR/initrd\"\n"
	write(t, path, strings.ReplaceAll(text+more, "DIR", dir))
	return Load(path)
}

func TestProtectedMachine(t *testing.T) {
	c, err := protected(t, "enable_annotations = [\".*\"]")
	if err != nil || len(c.Warnings) > 0 {
		t.Fatal(err, c)
	}
	if h := c.Hypervisor; !h.Confidential || h.IGVM == "" || h.Image == "" || h.Kernel != "" || c.KernelParams() != "" {
		t.Errorf("%+v", h)
	}
	const key = annotationHypervisor + "kernel_params"
	if _, err := c.Override(map[string]string{key: "quiet"}); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), key) {
		t.Errorf("a pod's kernel parameters: %v", err)
	}
}

func TestKeysBesideALaunchImage(t *testing.T) {
	c, err := protected(t, "kernel = \"DIR/kernel\"\nkernel_params = \"x\"\n[agent.kata]\nenable_debug = true\ndebug_console_enabled = true\n")
	if err != nil {
		t.Fatal(err)
	}
	warned := strings.Join(c.Warnings, "\n")
	for _, key := range []string{"kernel ", "kernel_params ", "agent.kata.enable_debug ", "agent.kata.debug_console_enabled "} {
		if !strings.Contains(warned, key+"has no effect with igvm") {
			t.Errorf("no warning of %s in\n%s", key, warned)
		}
	}
	if c.KernelParams() != "" || c.Hypervisor.Kernel != "" {
		t.Errorf("%q is added to the command line of a launch image, %q beside it", c.KernelParams(), c.Hypervisor.Kernel)
	}
	if _, err := protected(t, "initrd = \"DIR/initrd\""); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "exclude each other") {
		t.Errorf("a ramdisk beside a launch image: %v", err)
	}
}

func TestHostDataIsThePolicysHash(t *testing.T) {
	c, err := protected(t, "")
	if err != nil {
		t.Fatal(err)
	}
	const want = "f29a61410674e7e3184fb918a75bd5db888db98e3646d8852cc47162be9146a8" // as sha256sum says
	if got, err := c.HostData("package x"); err != nil || got != want {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	if got, err := c.HostData(""); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), annotationPolicy) {
		t.Errorf("no policy: %q, %v; want failed precondition that names the annotation", got, err)
	}
	c, err = protected(t, "[runtime]\nallow_missing_policy = true\n")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.HostData(""); err != nil || got != strings.Repeat("0", 64) {
		t.Errorf("no policy, and allowed: %q, %v", got, err)
	}
}

func TestRatesAreInBytes(t *testing.T) {
	c, err := loadText(t, "enable_hugepages = true\ndisk_rate_limiter_bw_max_rate = 80000000\ndisk_rate_limiter_bw_one_time_burst = 8\nnet_rate_limiter_ops_max_rate = 500\nnet_rate_limiter_ops_one_time_burst = 7\n")
	if err != nil {
		t.Fatal(err)
	}
	if h := c.Hypervisor; h.DiskRate != (Rate{Bytes: 10_000_000, BytesBurst: 1}) || h.NICRate != (Rate{Ops: 500, OpsBurst: 7}) || !h.Hugepages {
		t.Errorf("%+v", h)
	}
}
