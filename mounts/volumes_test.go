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

func TestMountsAreDecided(t *testing.T) {
	const pod = "/var/lib/kubelet/pods/p/volumes/"
	const dir = pod + "kubernetes.io~empty-dir/v"
	bind := func(destination, source string, options ...string) specs.Mount {
		return specs.Mount{Destination: destination, Source: source, Type: "bind", Options: append(options, "rbind")}
	}
	const guestCopy = sharedDir + "cc-0123456789abcdef-"
	for name, c := range map[string]struct {
		mount specs.Mount
		src   Source
		kind  ContainerType // empty: PodContainer
		want  string        // source in the guest, or what the error says
		class func(error) bool
	}{
		"proc":               {mount: specs.Mount{Destination: "/proc", Type: "proc", Source: "proc"}, want: "proc"},
		"bind of proc":       {mount: bind("/host", "/proc/sys"), want: "/proc/sys"},
		"bind of sys":        {mount: bind("/host", "/sys"), want: "/sys"},
		"not proc":           {mount: bind("/host", "/process"), want: guestCopy + "host"},
		"guest's device":     {mount: bind("/dev/kmsg", "/dev/kmsg"), src: Source{Kind: Special}, want: "/dev/kmsg"},
		"file":               {mount: bind("/etc/hosts", "/x/hosts"), want: guestCopy + "hosts"},
		"file by option":     {mount: specs.Mount{Destination: "/f", Source: "/x", Options: []string{"bind"}}, want: guestCopy + "f"},
		"termination log":    {mount: bind("/dev/termination-log", "/var/lib/kubelet/t"), want: guestCopy + "termination-log"},
		"read-only dir":      {mount: bind("/d", "/srv", "ro"), src: Source{Directory: true}, want: guestCopy + "d"},
		"config volume":      {mount: bind("/d", pod+"kubernetes.io~secret/s", "rw"), src: Source{Directory: true}, want: guestCopy + "d"},
		"shm":                {mount: bind("/dev/shm", "/run/shm"), src: Source{Directory: true, Tmpfs: true}, want: shmDir},
		"shm of ctr":         {mount: specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm"}, want: shmDir},
		"memory emptyDir":    {mount: bind("/v", dir), src: Source{Directory: true, Tmpfs: true}, want: ephemeralDir + "v"},
		"memory at shm":      {mount: bind("/dev/shm", dir), src: Source{Directory: true, Tmpfs: true}, want: ephemeralDir + "v"},
		"emptyDir":           {mount: bind("/v", dir), src: Source{Directory: true}, want: sharedDir + "sb/local/v"},
		"emptyDir of pause":  {mount: bind("/v", dir), src: Source{Directory: true}, kind: PodSandbox, want: "would be lost", class: errdefs.IsNotImplemented},
		"huge pages":         {mount: bind("/v", dir), src: Source{Directory: true, Hugetlbfs: true}, want: "huge pages", class: errdefs.IsNotImplemented},
		"writable dir":       {mount: bind("/d", "/srv"), src: Source{Directory: true}, want: "would be lost", class: errdefs.IsNotImplemented},
		"missing":            {mount: bind("/d", "/srv"), src: Source{Kind: Missing}, want: "no such file", class: errdefs.IsNotFound},
		"socket":             {mount: bind("/s", "/run/docker.sock"), src: Source{Kind: Special}, want: "sockets", class: errdefs.IsNotImplemented},
		"block device":       {mount: bind("/b", "/srv/disk"), src: Source{Kind: BlockDevice}, want: "block volumes", class: errdefs.IsNotImplemented},
		"foreign filesystem": {mount: specs.Mount{Destination: "/n", Type: "nfs", Source: "h:/x"}, want: `"nfs"`, class: errdefs.IsNotImplemented},
		"relative":           {mount: bind("etc", "/x"), want: "absolute", class: errdefs.IsInvalidArgument},
		"dots":               {mount: bind("/a/../b", "/x"), want: "..", class: errdefs.IsInvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{SandboxID: "sb", ContainerID: "cc", Type: PodContainer, Sources: map[string]Source{c.mount.Source: c.src},
				Random: func() string { return "0123456789abcdef" }}
			if c.kind != "" {
				o.Type = c.kind
			}
			v, err := planVolumes([]specs.Mount{c.mount}, o)
			if c.class != nil {
				if err == nil || !c.class(err) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.mount.Destination) {
					t.Errorf("%v, want an error that names the mount and says %q", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := v.mounts[0].GetSource(); got != c.want {
				t.Errorf("source %q, want %q", got, c.want)
			}
			if copied := len(v.files) == 1; copied != strings.HasPrefix(c.want, guestCopy) {
				t.Errorf("copies %v", v.files)
			}
		})
	}
}

func TestCopiesHaveNamesOfTheirOwn(t *testing.T) {
	m := specs.Mount{Destination: "/f", Source: "/x", Type: "bind"}
	v, err := planVolumes([]specs.Mount{m, m}, Options{ContainerID: "cc"})
	if err != nil || v.files[0].GuestPath == v.files[1].GuestPath {
		t.Errorf("%v, %+v: want two names", err, v)
	}
}

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
		"/dev/null":                {Kind: Special},
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
