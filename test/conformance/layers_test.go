package conformance

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

// damages are what may have happened to a layer file when it is to be plugged.
var damages = map[string]func(file string) error{
	"missing":     os.Remove,
	"cut short":   func(file string) error { return os.Truncate(file, 3*4096-1) },
	"empty":       func(file string) error { return os.Truncate(file, 0) },
	"a directory": func(file string) error { return replace(file, func() error { return os.Mkdir(file, 0o700) }) },
	"a pipe":      func(file string) error { return replace(file, func() error { return unix.Mkfifo(file, 0o600) }) },
	"a socket": func(file string) error {
		return replace(file, func() error { return unix.Mknod(file, unix.S_IFSOCK|0o600, 0) })
	},
	"a device": func(file string) error {
		return replace(file, func() error { return unix.Mknod(file, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))) })
	},
	"a qcow2 image": func(file string) error {
		return os.WriteFile(file, []byte("QFI\xfb"+strings.Repeat("x", 3*4096-4)), 0o600)
	},
	"a VHDX image": func(file string) error {
		return os.WriteFile(file, []byte("vhdxfile"+strings.Repeat("x", 3*4096-8)), 0o600)
	},
	"a VHD image": func(file string) error {
		footer := make([]byte, 512)
		copy(footer, "conectix\x00\x00\x00\x02\x00\x01\x00\x00")
		footer[63] = 2 // a fixed disk
		return os.WriteFile(file, append(make([]byte, 3*4096-512), footer...), 0o600)
	},
	"a dangling link": func(file string) error {
		return replace(file, func() error { return os.Symlink("/nowhere/at/all", file) })
	},
}

func replace(file string, with func() error) error {
	if err := os.Remove(file); err != nil {
		return err
	}
	return with()
}

// A layer that is not what it should be: the container is not created, the error
// names the layer's file, and the pod and its other containers go on.
func TestMatrixOfDamagedLayers(t *testing.T) {
	t.Parallel()
	for damage, do := range damages {
		for _, which := range []string{"pause", "top", "base"} {
			cell(t, "layer file", which+" is "+damage, func(t *testing.T) {
				h := newHost(t, memory.Script{})
				s := h.pod("pod")
				layers := map[string]string{}
				for _, content := range []string{"pause", "top", "base"} {
					layers[content] = h.layer(content)
				}
				if err := do(filepath.Join(h.dir, "layers", layers[which])); err != nil {
					t.Fatal(err)
				}
				if which == "pause" {
					wantText(t, s.tryCreate(h.ctx(), s.id, streams{}, layers["pause"]), layers["pause"])
					s.giveUp()
					return
				}
				s.create(s.id, streams{}, layers["pause"])
				s.run(s.id, "")
				id := h.id("a")
				s.attach(id)
				wantText(t, s.tryCreate(h.ctx(), id, streams{}, layers["top"], layers["base"]), layers[which])
				h.wantDisks(s.id, layers["pause"])
				sound := h.id("b")
				s.attach(sound)
				s.create(sound, streams{}, layers["pause"])
				s.run(sound, "")
				s.finish(sound)
				s.finish(s.id)
				if slices.ContainsFunc(h.sink.list(), func(e string) bool { return strings.Contains(e, id) }) {
					t.Errorf("events of a container that never was: %q", h.sink.list())
				}
			})
		}
	}
}
