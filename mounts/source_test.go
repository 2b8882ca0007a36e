package mounts

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

// kubeletPod makes the directories of a pod with one emptyDir and a subPath of
// it, bound as the kubelet binds it.
func kubeletPod(t *testing.T, memory bool) (volume, bound string) {
	t.Helper()
	pod := t.TempDir()
	volume = filepath.Join(pod, "volumes", emptyDirParent, "v")
	bound = filepath.Join(pod, subPaths, "v", "main", "0")
	if err := errors.Join(os.MkdirAll(volume, 0o777), os.MkdirAll(bound, 0o777)); err != nil {
		t.Fatal(err)
	}
	mount := func(source, target, fstype string, flags uintptr, data string) {
		if err := unix.Mount(source, target, fstype, flags, data); err != nil {
			t.Skipf("mount: %v", err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(target, 0); err != nil {
				t.Error(err)
			}
		})
	}
	if memory {
		mount("tmpfs", volume, "tmpfs", 0, "size=8m")
	}
	if err := os.MkdirAll(filepath.Join(volume, "a/b"), 0o777); err != nil {
		t.Fatal(err)
	}
	mount(filepath.Join(volume, "a/b"), bound, "", unix.MS_BIND, "")
	return volume, bound
}

func TestSubPathOfAnEmptyDirIsRecognised(t *testing.T) {
	for name, memory := range map[string]bool{"disk": false, "memory": true} {
		t.Run(name, func(t *testing.T) {
			volume, bound := kubeletPod(t, memory)
			spec := &specs.Spec{Mounts: []specs.Mount{{Destination: "/a", Source: bound, Type: "bind"}, {Destination: "/b", Source: volume, Type: "bind"}}}
			got, err := Inspect(spec)
			if err != nil {
				t.Fatal(err)
			}
			if s := got[bound]; s.EmptyDir != "v" || s.SubPath != "a/b" || !s.Directory {
				t.Errorf("the subPath is %+v", s)
			}
			want := uint64(0)
			if memory {
				want = 8 << 20
			}
			if s := got[volume]; s.EmptyDir != "" || memory && (!s.Tmpfs || s.Size != want) || got[bound].Tmpfs != s.Tmpfs {
				t.Errorf("the volume is %+v, want size %d; its subPath %+v", s, want, got[bound])
			}
		})
	}
}

// A subPath of a ConfigMap lies in the same place and is no emptyDir.
func TestSubPathOfAnotherVolume(t *testing.T) {
	_, bound := kubeletPod(t, false)
	other := filepath.Join(filepath.Dir(filepath.Dir(bound)), "main", "1")
	source := t.TempDir()
	if err := os.MkdirAll(other, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(source, other, "", unix.MS_BIND, ""); err != nil {
		t.Skipf("mount: %v", err)
	}
	defer unix.Unmount(other, 0)
	got, err := Inspect(&specs.Spec{Mounts: []specs.Mount{{Destination: "/a", Source: other, Type: "bind"}}})
	if err != nil || got[other].EmptyDir != "" {
		t.Errorf("%+v, %v", got[other], err)
	}
}

func TestLiveVolumeIsRecognised(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(dir+"/..1", 0o755), os.Symlink("..1", dir+"/..data")); err != nil {
		t.Fatal(err)
	}
	got, err := Inspect(&specs.Spec{Mounts: []specs.Mount{{Destination: "/a", Source: dir, Type: "bind"}}})
	if err != nil || !got[dir].Live {
		t.Errorf("%+v, %v", got[dir], err)
	}
}

func TestParseDirectVolume(t *testing.T) {
	good := `{"volume-type":"block","device":"/dev/vdb","fstype":"ext4","metadata":{"fsGroup":"2000","fsGroupChangePolicy":"OnRootMismatch","sensitiveMountOptions":"secret"},"options":["ro"]}`
	d, err := ParseDirectVolume([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if g := d.group(); g.GetGroupId() != 2000 || g.GetGroupChangePolicy() != agentpb.FSGroupChangePolicy_OnRootMismatch || !d.readOnly() || !reflect.DeepEqual(d.options(), []string{"ro", "secret"}) {
		t.Errorf("%+v", d)
	}
	for _, bad := range []string{
		"", "{}", `{"device":"/dev/vdb"}`, `{"device":"vdb","fstype":"ext4"}`,
		`{"device":"/d","fstype":"ext4","metadata":{"fsGroup":"-1"}}`, `{"device":"/d","fstype":"ext4","metadata":{"fsGroup":"x"}}`,
		`{"device":"/d","fstype":"ext4","metadata":{"fsGroupChangePolicy":"Always"}}`,
		`{"device":"/d","fstype":"ext4","metadata":{"fsGroup":"1","fsGroupChangePolicy":"Never"}}`,
	} {
		if d, err := ParseDirectVolume([]byte(bad)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s is read as %+v, %v", bad, d, err)
		}
	}
}

// FuzzDirectVolume: what is taken has a device and a type, and survives being
// written again.
func FuzzDirectVolume(f *testing.F) {
	f.Add([]byte(`{"volume-type":"block","device":"/dev/vdb","fstype":"ext4","metadata":{"fsGroup":"7"},"options":["ro"]}`))
	f.Add([]byte(`{"device":"//a/b","fstype":"cifs"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := ParseDirectVolume(data)
		if err != nil {
			return
		}
		if d.Device == "" || d.FSType == "" || d.FSType != "cifs" && !filepath.IsAbs(d.Device) {
			t.Fatalf("%q is read as %+v", data, d)
		}
		text, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := ParseDirectVolume(text); err != nil || again.Device != d.Device || again.group().GetGroupId() != d.group().GetGroupId() {
			t.Fatalf("%s is read as %+v, %v; want %+v", text, again, err, d)
		}
	})
}

func TestBrokenDirectVolumeRefusesTheMount(t *testing.T) {
	source := t.TempDir()
	dir := DirectVolumeDir(source)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	spec := &specs.Spec{Mounts: []specs.Mount{{Destination: "/data", Source: source, Type: "bind"}}}
	for text, want := range map[string]string{
		"{":                               "unexpected end",
		`{"device":"/none","fstype":"x"}`: "/none",
		`{"device":"/","fstype":"x"}`:     "neither a block device nor a file",
	} {
		if err := os.WriteFile(filepath.Join(dir, DirectVolumeFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Inspect(spec); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "/data") {
			t.Errorf("%s: %v, want an error that names the mount and %q", text, err, want)
		}
	}
}

func TestCheckVolume(t *testing.T) {
	dir := t.TempDir()
	file := func(name, head, foot string, size int) string {
		data := make([]byte, size)
		copy(data, head)
		if foot != "" {
			copy(data[size-512:], foot)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if err := CheckVolume(file("good", "", "", 4096)); err != nil {
		t.Error(err)
	}
	for path, want := range map[string]string{
		file("qcow", "QFI\xfb", "", 4096):  "qcow2",
		file("vhd", "", "conectix", 4096):  "VHD",
		file("vhdx", "vhdxfile", "", 4096): "VHDX",
		file("small", "", "", 511):         "too few",
		dir:                                "neither",
		"/dev/null":                        "neither",
	} {
		if err := CheckVolume(path); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want an invalid argument that says %q", path, err, want)
		}
	}
	if err := CheckVolume(dir + "/none"); !errdefs.IsNotFound(err) {
		t.Errorf("%v", err)
	}
}

func TestHugePagesAreRecognised(t *testing.T) {
	for options, size := range map[string]uint64{"pagesize=2M": 0, "pagesize=2M,size=8M": 8 << 20, "pagesize=2M,min_size=0": 0} {
		dir := t.TempDir()
		if err := unix.Mount("nodev", dir, "hugetlbfs", 0, options); err != nil {
			t.Skipf("mount a hugetlbfs: %v", err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(dir, 0); err != nil {
				t.Error(err)
			}
		})
		sources, err := Inspect(&specs.Spec{Mounts: []specs.Mount{{Destination: "/h", Source: dir, Type: "bind"}}})
		if s := sources[dir]; err != nil || !OnHugePages(sources) || s.PageSize != huge2M || s.Size != size {
			t.Errorf("mounted with %s it is %+v, %v", options, s, err)
		}
	}
}
