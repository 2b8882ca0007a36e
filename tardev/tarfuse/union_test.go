package tarfuse

import (
	"archive/tar"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/kata-cc/kata-cc/tardev"
)

func mountUnion(t testing.TB, layers ...*tardev.FS) string {
	t.Helper()
	needMount(t)
	dir := t.TempDir()
	s, err := MountUnion(layers, dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmount(t, s) })
	return dir
}

func TestUnion(t *testing.T) {
	dir := func(name string, mode int64) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: mode}
	}
	base := open(t,
		dir("etc", 0o755), tar.Header{Name: "etc/passwd", Linkname: "base"}, tar.Header{Name: "etc/gone", Linkname: "base"},
		dir("opaque", 0o755), tar.Header{Name: "opaque/hidden"},
		dir("tree", 0o755), tar.Header{Name: "tree/a"},
		dir("turns-file", 0o755), tar.Header{Name: "turns-dir", Linkname: "base"},
		dir("deep", 0o755), dir("deep/er", 0o755), tar.Header{Name: "deep/er/base"},
		tar.Header{Name: "back", Linkname: "base"})
	middle := open(t,
		dir("etc", 0o700), tar.Header{Name: "etc/.wh.gone"}, tar.Header{Name: "etc/group", Linkname: "middle"},
		dir("opaque", 0o755), tar.Header{Name: "opaque/.wh..wh..opq"}, tar.Header{Name: "opaque/seen"},
		tar.Header{Name: ".wh.tree"}, tar.Header{Name: "turns-file", Linkname: "middle"},
		dir("turns-dir", 0o755), tar.Header{Name: "turns-dir/in"},
		tar.Header{Name: "implied/file"}, tar.Header{Name: ".wh.back"})
	top := open(t,
		dir("deep", 0o755), dir("deep/er", 0o755), tar.Header{Name: "deep/er/top"},
		dir("tree", 0o755), tar.Header{Name: "tree/b"},
		tar.Header{Name: "back", Typeflag: tar.TypeSymlink, Linkname: "etc/passwd"})
	root := mountUnion(t, top, middle, base)

	for name, want := range map[string]string{
		".": "back deep etc opaque tree turns-dir turns-file", "etc": "group passwd", "opaque": "seen",
		"tree": "b", "turns-dir": "in", "deep/er": "base top",
	} {
		for range 2 {
			names := readNames(t, filepath.Join(root, name))
			slices.Sort(names)
			if got := strings.Join(names, " "); got != want {
				t.Errorf("%s has %q, want %q", name, got, want)
			}
		}
	}
	for name, want := range map[string]string{"etc/passwd": "base", "etc/group": "middle", "turns-file": "middle", "back": "base"} {
		if data, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(data) != want {
			t.Errorf("%s has %q, error %v", name, data, err)
		}
	}
	for _, name := range []string{"etc/gone", "tree/a", "opaque/hidden", "implied", "none"} {
		if _, err := os.Lstat(filepath.Join(root, name)); !os.IsNotExist(err) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if st := stat(t, root+"/etc"); st.Mode&0o777 != 0o700 {
		t.Errorf("etc has mode %o", st.Mode)
	}
	// Listed first, then entered: the listing must know what merges.
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err == nil {
			_, err = d.Info()
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// TestUnionListsManyOverAndOver reads directories by turns, piece by piece, that
// are too large to be kept together.
func TestUnionListsManyOverAndOver(t *testing.T) {
	const count = 1000
	members := [][]tar.Header{{}, {}}
	var want []string
	for _, d := range []string{"a", "b"} {
		for i := range members {
			members[i] = append(members[i], tar.Header{Name: d, Typeflag: tar.TypeDir})
		}
		for i := range count {
			members[i%2] = append(members[i%2], tar.Header{Name: fmt.Sprintf("%s/%s-%05d", d, strings.Repeat("name", 30), i)})
		}
	}
	for i := range count {
		want = append(want, fmt.Sprintf("%s-%05d", strings.Repeat("name", 30), i))
	}
	u, err := newUnion([]*tardev.FS{open(t, members[0]...), open(t, members[1]...)})
	if err != nil {
		t.Fatal(err)
	}
	u.keep = count // one of them
	needMount(t)
	root := t.TempDir()
	s, err := serve(u, "kata-overlay", root, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmount(t, s) })
	var open [2]*os.File
	for i, d := range []string{"a", "b"} {
		if open[i], err = os.Open(filepath.Join(root, d)); err != nil {
			t.Fatal(err)
		}
		defer open[i].Close()
	}
	var got [2][]string
	for range 2 * count / 100 {
		for i, f := range open {
			names, err := f.Readdirnames(100)
			if err != nil && err != io.EOF {
				t.Fatal(err)
			}
			got[i] = append(got[i], names...)
		}
	}
	for i := range got {
		slices.Sort(got[i])
		if !slices.Equal(got[i], want) {
			t.Errorf("directory %d: %d names, want %d", i, len(got[i]), count)
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.listings) != 1 || u.listed != count {
		t.Errorf("%d listings of %d names are kept, want the last", len(u.listings), u.listed)
	}
}
