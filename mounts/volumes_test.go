package mounts

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestInspect(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	spec := &specs.Spec{}
	want := map[string]Source{
		file:                       {},
		filepath.Join(dir, "link"): {},
		dir:                        {Directory: true},
		filepath.Join(dir, "none"): {Kind: Missing},
		filepath.Join(dir, "fifo"): {Kind: Special},
		"/dev/null":                {Kind: CharDevice},
	}
	for path := range want {
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/d", Source: path, Type: "bind"})
	}
	got, err := Inspect(spec)
	if err != nil {
		t.Fatal(err)
	}
	for path, w := range want {
		if g := got[path]; g.Kind != w.Kind || g.Directory != w.Directory {
			t.Errorf("%s: %+v, want %+v", path, g, w)
		}
	}
}

func TestShmSizeAndResolvConf(t *testing.T) {
	spec := &specs.Spec{}
	if size, err := ShmSize(spec); size != DefaultShmSize || err != nil {
		t.Errorf("ShmSize without a mount = %d, %v", size, err)
	}
	if data, err := ResolvConf(spec); data != nil || err != nil {
		t.Errorf("ResolvConf without a mount = %q, %v", data, err)
	}
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte("nameserver 1.1.1.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	spec.Mounts = []specs.Mount{
		{Destination: "/etc/resolv.conf", Source: file, Type: "bind"},
		{Destination: "/dev/shm", Source: "/dev/shm", Type: "bind"},
	}
	if data, err := ResolvConf(spec); string(data) != "nameserver 1.1.1.1\n" || err != nil {
		t.Errorf("ResolvConf = %q, %v", data, err)
	}
	if size, err := ShmSize(spec); size == 0 || err != nil {
		t.Errorf("ShmSize = %d, %v", size, err)
	}
	if err := os.Truncate(file, maxResolvConf+1); err != nil {
		t.Fatal(err)
	}
	if _, err := ResolvConf(spec); !errdefs.IsInvalidArgument(err) {
		t.Errorf("ResolvConf of a large file: %v", err)
	}
}

func TestCheckLayerFile(t *testing.T) {
	dir := t.TempDir()
	file := func(size int, head, foot string) string {
		data := make([]byte, size)
		binary.LittleEndian.PutUint32(data[max(0, size-512):], 4096)
		copy(data, head)
		if foot != "" {
			copy(data[size-512:], foot)
		}
		f, err := os.CreateTemp(dir, "layer")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.Write(data); err != nil {
			t.Fatal(err)
		}
		return f.Name()
	}
	good := file(5*4096, "bin/", "")
	link := filepath.Join(dir, "link")
	if err := os.Symlink(good, link); err != nil {
		t.Fatal(err)
	}
	if err := CheckLayerFile(good); err != nil {
		t.Error(err)
	}
	for path, want := range map[string]string{
		file(5*4096-1, "", ""):           "size 20479",
		file(4096, "", ""):               "size 4096",
		file(5*4096, "QFI\xfb", ""):      "qcow2",
		file(5*4096, "vhdxfile", ""):     "VHDX",
		file(5*4096, "bin/", "conectix"): "VHD",
		dir:                              "not a regular file",
		link:                             "symbolic link",
	} {
		if err := CheckLayerFile(path); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want an invalid argument that says %q", path, err, want)
		}
	}
	if err := CheckLayerFile(filepath.Join(dir, "none")); !errdefs.IsNotFound(err) {
		t.Errorf("missing file: %v, want not found", err)
	}
}
