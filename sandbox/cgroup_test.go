package sandbox

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestCgroupPath(t *testing.T) {
	for in, want := range map[string]string{
		"/kubepods/besteffort/pod1/abc": "/kubepods/besteffort/pod1/abc",
		"default/abc":                   "/default/abc",
		"/a/../../b":                    "/b",
		"kubepods-burstable-pod1.slice:cri-containerd:abc": "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-abc.scope",
		"system.slice:kata:abc":                            "/system.slice/kata-abc.scope",
		"-.slice:kata:abc":                                 "/kata-abc.scope",
		"a.slice:kata:b.slice":                             "/a.slice/b.slice",
	} {
		if got, err := cgroupPath(in); err != nil || got != want {
			t.Errorf("%s gives %s, %v; want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"", "/", "/..", "a:b", "a:b:c", "a:b:c:d", ".slice:b:c", "a--b.slice:b:c", "-a.slice:b:c", "a-.slice:b:c", "a/b.slice:c:d"} {
		if got, err := cgroupPath(in); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q gives %q, %v; want a refusal", in, got, err)
		}
	}
}

func FuzzCgroupPath(f *testing.F) {
	for _, s := range []string{"/a/b", "a-b.slice:c:d", "../..", "a:b:../../c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		got, err := cgroupPath(in)
		if err != nil {
			return
		}
		if got == "/" || path.Clean(got) != got || !strings.HasPrefix(got, "/") || slices.Contains(strings.Split(got, "/"), "..") {
			t.Errorf("%q gives %q, which is not a clean path below the root", in, got)
		}
	})
}

func TestHierarchies(t *testing.T) {
	const (
		v1     = "25 24 0:22 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n26 24 0:23 / /sys/fs/cgroup/memory rw shared:7 - cgroup cgroup rw,memory\n"
		v2     = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n"
		hybrid = "31 24 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
		other  = "22 1 0:20 / /proc rw - proc proc rw\nbroken line\n"
	)
	for name, c := range map[string]struct {
		mountinfo string
		want      []string
	}{
		"version 1": {other + v1, []string{"/sys/fs/cgroup/cpu", "/sys/fs/cgroup/memory"}},
		"version 2": {other + v2, []string{"/sys/fs/cgroup"}},
		"hybrid":    {v1 + hybrid, []string{"/sys/fs/cgroup/cpu", "/sys/fs/cgroup/memory"}},
	} {
		if got, err := hierarchies(strings.NewReader(c.mountinfo)); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, %v; want %v", name, got, err, c.want)
		}
	}
	if _, err := hierarchies(strings.NewReader(other)); !errdefs.IsNotFound(err) {
		t.Errorf("without any: %v", err)
	}
}

func TestCgroupTakesItsParentsAlong(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	roots, err := hostHierarchies()
	if err != nil {
		t.Skip("needs cgroups")
	}
	const top = "/kata-cc-sandbox-test"
	made, err := makeCgroup(t.Context(), top+"/pod/sandbox")
	if err != nil {
		t.Fatal(err)
	}
	if made != top {
		t.Errorf("topmost made is %s, want %s", made, top)
	}
	if second, err := makeCgroup(t.Context(), top+"/pod/other"); err != nil || second != top+"/pod/other" {
		t.Errorf("topmost made second is %s, %v", second, err)
	}
	for range 2 { // it may be repeated
		if err := removeCgroup(t.Context(), top+"/pod/sandbox", made); err != nil {
			t.Error(err)
		}
	}
	for _, root := range roots {
		if _, err := os.Stat(filepath.Join(root, top, "pod/other")); err != nil {
			t.Errorf("another's cgroup is gone: %v", err)
		}
	}
	if err := removeCgroup(t.Context(), top+"/pod/other", top); err != nil {
		t.Error(err)
	}
	for _, root := range roots {
		if _, err := os.Stat(filepath.Join(root, top)); !os.IsNotExist(err) {
			t.Errorf("%s is left in %s", top, root)
		}
	}
}
