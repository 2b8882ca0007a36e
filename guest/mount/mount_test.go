package mount

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func TestParseOptions(t *testing.T) {
	for in, want := range map[string]struct {
		flags uintptr
		data  string
	}{
		"":                           {0, ""},
		"ro,nosuid,nodev,noexec":     {unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		"ro,rw":                      {0, ""},
		"noexec,mode=1777,size=64k":  {unix.MS_NOEXEC, "mode=1777,size=64k"},
		"rbind":                      {unix.MS_BIND | unix.MS_REC, ""},
		"defaults,lowerdir=a:b":      {0, "lowerdir=a:b"},
		KataPrefix + "fs-opt.is-x,a": {0, "a"},
	} {
		got, err := ParseOptions(strings.Split(in, ","))
		if err != nil || got.Flags != want.flags || strings.Join(got.Data, ",") != want.data {
			t.Errorf("ParseOptions(%q) = %+v, %v, want %+v", in, got, err, want)
		}
	}
	for _, bad := range []string{"loop", "a\x00b"} {
		if _, err := ParseOptions([]string{bad}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("option %q gives %v", bad, err)
		}
	}
}

func FuzzParseOptions(f *testing.F) {
	f.Add("ro,io.katacontainers.fs-opt.root-hash=00,lowerdir=a:b")
	f.Fuzz(func(t *testing.T, s string) {
		o, err := ParseOptions(strings.Split(s, ","))
		if err != nil {
			return
		}
		for _, d := range o.Data {
			if strings.HasPrefix(d, KataPrefix) || d == "" || strings.ContainsRune(d, 0) {
				t.Errorf("%q leaves data %q", s, d)
			}
			if _, ok := flags[d]; ok {
				t.Errorf("%q leaves the flag %q in the data", s, d)
			}
		}
	})
}

func TestOption(t *testing.T) {
	options := []string{"size=1", "a=", "size=2"}
	if v, ok := Option(options, "size"); v != "2" || !ok {
		t.Errorf("size is %q, %v", v, ok)
	}
	if v, ok := Option(options, "siz"); ok {
		t.Errorf("siz is %q", v)
	}
}

func TestBelow(t *testing.T) {
	const info = `22 1 0:20 / / rw - ext4 /dev/vda rw
23 22 0:21 / /run/kata-containers rw - tmpfs tmpfs rw
24 23 0:22 / /run/kata-containers/a\040b rw - tmpfs tmpfs rw
25 23 0:22 / /run/kata-containers-not rw - tmpfs tmpfs rw
short line
26 24 0:23 / /run/kata-containers/a\040b/c rw - tmpfs tmpfs rw
`
	got := below(info, "/run/kata-containers")
	if want := []string{"/run/kata-containers/a b", "/run/kata-containers/a b/c"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestOverlayOptions(t *testing.T) {
	o := Overlay{Upper: "/u", Work: "/w", Extra: Options{Data: []string{"index=off", "xino=off"}}}
	got := strings.Join(o.options([]string{"top", "bottom"}).Data, ",")
	if want := "lowerdir=top:bottom,upperdir=/u,workdir=/w,index=off,xino=off"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, lower := range [][]string{nil, {""}, {"a,b"}} {
		if err := (Overlay{Target: "/nowhere", Lower: lower}).Mount(); !errdefs.IsInvalidArgument(err) {
			t.Errorf("layers %q give %v", lower, err)
		}
	}
}

func TestManyLayers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	o := Overlay{Layers: dir, Short: filepath.Join(dir, "short"), Target: filepath.Join(dir, "target")}
	for i := range 100 { // 100 names of 64 characters are more than a page
		name := strings.Repeat("0", 61) + string(rune('a'+i/26)) + string(rune('a'+i%26)) + "x"
		o.Lower = append(o.Lower, name)
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "top"), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	before, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Mount(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := Unmount(o.Target); err != nil {
			t.Error(err)
		}
		if err := Unmount(o.Target); err != nil {
			t.Errorf("unmounting what is not mounted: %v", err)
		}
	}()
	if got, err := os.ReadFile(filepath.Join(o.Target, "top")); string(got) != o.Lower[0] || err != nil {
		t.Errorf("the top layer is %q, %v, want %q", got, err, o.Lower[0])
	}
	if after, err := os.Getwd(); after != before || err != nil {
		t.Errorf("the working directory is %s, %v", after, err)
	}
}

func TestMountNeedsItsParts(t *testing.T) {
	for text, m := range map[string]Mount{
		"need mount source":            {Target: "/x", FSType: "tmpfs"},
		"need mount destination":       {Source: "x", FSType: "tmpfs"},
		"need mount FS type":           {Source: "x", Target: "/x"},
		"Mount option exceeds 4K size": {Source: "x", Target: "/x", FSType: "tmpfs", Options: Options{Data: []string{strings.Repeat("x", 5000)}}},
	} {
		if err := m.Do(); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("error is %v, want %q", err, text)
		}
	}
}
