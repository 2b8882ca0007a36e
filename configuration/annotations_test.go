package configuration

import (
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/containerd/errdefs"
)

func TestAnnotationsAreGated(t *testing.T) {
	c, err := loadText(t, "default_memory = 512\nkernel_params = \"a\"\nenable_annotations = [\"default_.*\", \"kernel\"]\n")
	if err != nil {
		t.Fatal(err)
	}
	all, err := loadText(t, "default_memory = 512\nenable_annotations = [\".*\"]\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		c          *Config
		key, value string
		class      func(error) bool // nil: allowed
	}{
		{c, "io.katacontainers.config.hypervisor.default_memory", "1024", nil},
		{c, "io.katacontainers.config.hypervisor.default_vcpus", "0.5", nil},
		{c, "io.katacontainers.config.agent.policy", "anything", nil},
		{c, "io.kubernetes.cri.sandbox-id", "x", nil},
		{all, "io.katacontainers.config.hypervisor.kernel_params", "b=c", nil},
		{c, "io.katacontainers.config.hypervisor.kernel_params", "b=c", errdefs.IsPermissionDenied}, // "kernel" is the whole name
		{c, "io.katacontainers.config.hypervisor.default_memory", "63", errdefs.IsInvalidArgument},
		{c, "io.katacontainers.config.hypervisor.default_memory", "-1", errdefs.IsInvalidArgument},
		{c, "io.katacontainers.config.hypervisor.default_memory", "9999999999", errdefs.IsInvalidArgument},
		{c, "io.katacontainers.config.hypervisor.default_vcpus", "NaN", errdefs.IsInvalidArgument},
		{c, "io.katacontainers.config.hypervisor.default_vcpus", "100000", errdefs.IsInvalidArgument},
		{c, "io.katacontainers.config.hypervisor.default_max_vcpus", "1", errdefs.IsNotImplemented},
		{all, "io.katacontainers.config.hypervisor.path", "/bin/sh", errdefs.IsNotImplemented},
		{all, "io.katacontainers.config.hypervisor.kernel_params", "a\nb", errdefs.IsInvalidArgument},
		{all, "io.katacontainers.config.runtime.disable_new_netns", "true", errdefs.IsNotImplemented},
		{all, "io.katacontainers.config.agent.kernel_modules", "x", errdefs.IsNotImplemented},
	} {
		o, err := x.c.Override(map[string]string{x.key: x.value})
		if x.class == nil && err != nil {
			t.Errorf("%s=%q: %v", x.key, x.value, err)
		}
		if x.class != nil && (err == nil || !x.class(err) || !strings.Contains(err.Error(), x.key)) {
			t.Errorf("%s=%q: %v, %+v, want another class", x.key, x.value, err, o)
		}
	}
	if c.Hypervisor.DefaultMemoryMiB != 512 || c.Hypervisor.KernelParams != "a" {
		t.Errorf("the configuration itself was changed: %+v", c.Hypervisor)
	}
}

func TestPolicy(t *testing.T) {
	if _, ok, err := Policy(nil); ok || err != nil {
		t.Errorf("no annotation: %v, %v", ok, err)
	}
	if text, ok, err := Policy(map[string]string{annotationPolicy: "cGFja2FnZSB4"}); text != "package x" || !ok || err != nil {
		t.Errorf("%q, %v, %v", text, ok, err)
	}
	if _, _, err := Policy(map[string]string{annotationPolicy: "!"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("no base64: %v", err)
	}
}

// FuzzOverride checks that no annotation changes more than the three values that
// pods may change, or takes them out of their bounds.
func FuzzOverride(f *testing.F) {
	f.Add("hypervisor.default_memory", "1024")
	f.Add("hypervisor.kernel_params", "x=y")
	f.Add("runtime.enable_pprof", "true")
	c, err := loadText(f, "default_memory = 512\nenable_annotations = [\".*\"]\n")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, key, value string) {
		o, err := c.Override(map[string]string{annotationPrefix + key: value})
		if err != nil {
			return
		}
		h := o.Hypervisor
		if h.DefaultVCPUs < 0 || h.DefaultVCPUs > float64(c.hostCPUs) || h.DefaultMemoryMiB < minMemoryMiB || strings.ContainsAny(h.KernelParams, "\n\x00") {
			t.Errorf("%q=%q gives %+v", key, value, h)
		}
		o.Hypervisor.DefaultVCPUs, o.Hypervisor.DefaultMemoryMiB, o.Hypervisor.KernelParams = c.Hypervisor.DefaultVCPUs, c.Hypervisor.DefaultMemoryMiB, c.Hypervisor.KernelParams
		if !reflect.DeepEqual(o, c) {
			t.Errorf("%q=%q changes %+v", key, value, o)
		}
	})
}

// FuzzDecode checks that every key of a document either has a field, or is
// judged: nothing is skipped.
func FuzzDecode(f *testing.F) {
	f.Add("[hypervisor.clh]\npath = \"/x\"\n")
	f.Add("[agent.kata]\nenable_debug = true\n[runtime]\nx.y = 1\n")
	f.Add("runtime = {enable_debug = true, foo = []}")
	f.Add("hypervisor.clh.kernel_params = 'a'\n[[runtime]]\n")
	f.Add("a = 1\n\"\" = 2\n")
	f.Fuzz(func(t *testing.T, text string) {
		v := defaults()
		warnings, err := v.decode("f", text)
		if err == nil {
			for _, w := range warnings {
				if !strings.HasPrefix(w, "f:") {
					t.Errorf("warning %q does not name the file", w)
				}
			}
			// A second key that nobody knows must turn this into an error.
			if _, err := defaults().decode("f", text+"\n[zzz]\nyyy = 1\n"); err == nil && utf8.ValidString(text) {
				t.Errorf("an unknown table after %q is accepted", text)
			}
		}
	})
}
