package image

import (
	"slices"
	"strings"
	"testing"

	"github.com/kata-cc/kata-cc/guest/image/debian"
)

const kernelDir = "/lib/modules/6.1-test/kernel/"

func modules(t *testing.T, modules map[string][]string, builtin string) moduleSet {
	t.Helper()
	files := map[string]debian.File{}
	for name, info := range modules {
		files[kernelDir+name] = packaged(kernelDir+name, kernelModule(t, info...))
	}
	list := "/lib/modules/6.1-test/modules.builtin"
	files[list] = packaged(list, []byte(builtin))
	return newModuleSet("6.1-test", files)
}

func names(list []module) []string {
	var all []string
	for _, m := range list {
		all = append(all, m.name)
	}
	return all
}

func TestModulesAreLoadedAfterWhatTheyNeed(t *testing.T) {
	set := modules(t, map[string][]string{
		"drivers/md/dm-verity.ko":       {"depends=reed_solomon,dm-mod,dm-bufio", "name=dm_verity", "softdep=pre: sha256 post: other"},
		"drivers/md/dm-mod.ko":          {"depends="},
		"drivers/md/dm-bufio.ko":        {"depends=dm-mod"},
		"lib/reed_solomon.ko":           {"depends=crc"},
		"arch/x86/crypto/sha256.ko":     {"depends=", "alias=crypto-sha256"},
		"fs/other.ko":                   {"depends="},
		"drivers/virtio/virtio.ko":      {"depends=virtio_ring"},
		"drivers/virtio/virtio_ring.ko": {"depends="},
	}, "kernel/lib/crc.ko\nkernel/fs/ext4/ext4.ko\n")
	for _, test := range []struct {
		wanted []string
		want   string
	}{
		{[]string{"dm-verity"}, "sha256 reed_solomon dm_mod dm_bufio dm_verity"},
		{[]string{"dm_bufio", "dm-verity"}, "dm_mod dm_bufio sha256 reed_solomon dm_verity"},
		{[]string{"ext4"}, ""},
		{[]string{"virtio", "virtio_ring", "virtio"}, "virtio_ring virtio"},
		{nil, ""},
	} {
		list, err := set.order(t.Context(), test.wanted)
		if got := strings.Join(names(list), " "); err != nil || got != test.want {
			t.Errorf("%q: %q, %v, want %q", test.wanted, got, err, test.want)
		}
	}
}

func TestModuleErrorsNameKernelAndModule(t *testing.T) {
	set := modules(t, map[string][]string{
		"a.ko": {"depends=b"}, "b.ko": {"depends=a"}, "c.ko": {"depends=lost"},
		"soft.ko": {"depends=", "softdep=pre: nowhere"},
	}, "")
	for wanted, want := range map[string]string{
		"absent": "kernel 6.1-test: absent (needed by the guest) is neither a module of its package nor built in",
		"c":      "lost (needed by c)",
		"a":      "depends on itself",
	} {
		if _, err := set.order(t.Context(), []string{wanted}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want an error with %q", wanted, err, want)
		}
	}
	if list, err := set.order(t.Context(), []string{"soft"}); err != nil || len(list) != 1 {
		t.Errorf("a soft dependency that is not there: %q, %v", names(list), err)
	}
}

func TestTreeHasModulesForAgentAndModprobe(t *testing.T) {
	set := modules(t, map[string][]string{
		"top.ko": {"depends=middle", "alias=fs-top"}, "middle.ko": {"depends=base,builtin"}, "base.ko": {"depends="},
		"spare.ko": {"depends=base"},
	}, "kernel/builtin.ko\n")
	boot, err := set.order(t.Context(), []string{"top"})
	if err != nil {
		t.Fatal(err)
	}
	all, err := set.order(t.Context(), []string{"top", "spare"})
	if err != nil {
		t.Fatal(err)
	}
	tr := tree{}
	if err := tr.addModules("6.1-test", boot, all); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"/etc/kata-agent/modules":             kernelDir + "base.ko\n" + kernelDir + "middle.ko\n" + kernelDir + "top.ko\n",
		"/lib/modules/6.1-test/modules.alias": "alias fs-top top\n",
		"/lib/modules/6.1-test/modules.dep": "kernel/base.ko:\nkernel/middle.ko: kernel/base.ko\n" +
			"kernel/top.ko: kernel/middle.ko kernel/base.ko\nkernel/spare.ko: kernel/base.ko\n",
	} {
		if got := string(tr[name].Data); got != want {
			t.Errorf("%s is\n%swant\n%s", name, got, want)
		}
	}
	if _, there := tr[kernelDir+"spare.ko"]; !there {
		t.Error("the spare module is missing")
	}
}

func TestSoftPre(t *testing.T) {
	for value, want := range map[string][]string{
		"":                        nil,
		"pre: a b post: c pre: d": {"a", "b", "d"},
		"post: c":                 nil,
		"a":                       nil,
	} {
		if got := softPre(value); !slices.Equal(got, want) {
			t.Errorf("softPre(%q) = %q, want %q", value, got, want)
		}
	}
}

func FuzzModinfo(f *testing.F) {
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(t *testing.T, data []byte) {
		lines, err := modinfo(data)
		if err == nil && (slices.Contains(lines, "") || strings.Contains(strings.Join(lines, ""), "\x00")) {
			t.Errorf("lines are %q", lines)
		}
	})
}
