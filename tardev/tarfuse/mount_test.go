package tarfuse

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/tardev"
)

func needMount(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("needs /dev/fuse")
	}
}

// layer makes a layer of members; the contents of a regular file are in its
// Linkname.
func layer(t testing.TB, members ...tar.Header) (file []byte, l tardev.Layer) {
	t.Helper()
	var blob, out bytes.Buffer
	w := tar.NewWriter(&blob)
	for _, h := range members {
		data := ""
		if h.Typeflag == 0 || h.Typeflag == tar.TypeReg {
			data, h.Linkname = h.Linkname, ""
			h.Size = int64(len(data))
		}
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tardev.Build(t.Context(), &out, &blob, tardev.BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), l
}

func open(t testing.TB, members ...tar.Header) *tardev.FS {
	t.Helper()
	file, l := layer(t, members...)
	fsys, err := tardev.Open(bytes.NewReader(file), l.DataSize)
	if err != nil {
		t.Fatal(err)
	}
	return fsys
}

func mount(t testing.TB, fsys *tardev.FS, o Options) string {
	t.Helper()
	needMount(t)
	dir := t.TempDir()
	s, err := Mount(fsys, dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmount(t, s) })
	return dir
}

func unmount(t testing.TB, s *Server) {
	t.Helper()
	if err := s.Unmount(); err != nil {
		t.Errorf("Unmount: %v", err)
		_ = syscall.Unmount(s.dir, syscall.MNT_DETACH)
	}
	s.Wait()
}

func stat(t testing.TB, path string) *syscall.Stat_t {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		t.Fatalf("lstat %s: %v", path, err)
	}
	return &st
}

func TestMount(t *testing.T) {
	long := strings.Repeat("contents ", 100_000)
	fsys := open(t,
		tar.Header{Name: "dir", Typeflag: tar.TypeDir, Mode: 0o750, Uid: 3, Gid: 4},
		tar.Header{Name: "dir/file", Linkname: long, Mode: 0o640, Uid: 5},
		tar.Header{Name: "dir/su", Linkname: "program", Mode: 0o6755},
		tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "dir/file"},
		tar.Header{Name: "sym", Typeflag: tar.TypeSymlink, Linkname: "dir/file"},
		tar.Header{Name: "char", Typeflag: tar.TypeChar, Devmajor: 10, Devminor: 300},
		tar.Header{Name: "fifo", Typeflag: tar.TypeFifo},
		tar.Header{Name: ".wh.gone"},
		tar.Header{Name: "implied/file"},
		tar.Header{Name: "dir/.wh..wh..opq"})
	dir := mount(t, fsys, Options{FSName: "/dev/mapper/layer"})

	if mounts, err := os.ReadFile("/proc/self/mounts"); err != nil || !strings.Contains(string(mounts), "/dev/mapper/layer "+dir+" fuse.tar ro,") {
		t.Errorf("not in /proc/self/mounts as it should be: %s", mounts)
	}
	data, err := os.ReadFile(filepath.Join(dir, "sym"))
	if err != nil || string(data) != long {
		t.Errorf("%d bytes, error %v", len(data), err)
	}
	file, hard := stat(t, dir+"/dir/file"), stat(t, dir+"/hard")
	if file.Ino != hard.Ino || file.Mode != syscall.S_IFREG|0o640 || file.Uid != 5 || file.Size != int64(len(long)) {
		t.Errorf("file %+v, hard link %+v", file, hard)
	}
	if st := stat(t, dir+"/dir/su"); st.Mode != syscall.S_IFREG|0o6755 {
		t.Errorf("a program that is set-user-id and set-group-id has mode %#o", st.Mode)
	}
	if st := stat(t, dir); st.Ino != tardev.RootIno || st.Mode != syscall.S_IFDIR|0o555 {
		t.Errorf("root %+v", st)
	}
	if st := stat(t, dir+"/char"); st.Mode&syscall.S_IFMT != syscall.S_IFCHR || unix.Major(st.Rdev) != 10 || unix.Minor(st.Rdev) != 300 {
		t.Errorf("device %+v", st)
	}
	if st := stat(t, dir+"/gone"); st.Mode&syscall.S_IFMT != syscall.S_IFCHR || st.Rdev != 0 {
		t.Errorf("whiteout %+v", st)
	}
	value := make([]byte, 8)
	if n, err := unix.Lgetxattr(dir+"/dir", opaqueXattr, value); err != nil || string(value[:n]) != "y" {
		t.Errorf("opaque: %q, error %v", value[:max(n, 0)], err)
	}
	if _, err := unix.Lgetxattr(dir, opaqueXattr, value); err != unix.ENODATA {
		t.Errorf("opaque root: error %v", err)
	}
	if err := os.WriteFile(dir+"/new", nil, 0o600); !errors.Is(err, syscall.EROFS) {
		t.Errorf("write: error %v", err)
	}
	for _, name := range []string{"none", "implied"} {
		if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("stat %s: error %v", name, err)
		}
	}
	names := readNames(t, dir)
	if want := []string{"char", "dir", "fifo", "gone", "hard", "implied", "sym"}; !slices.Equal(names, want) {
		t.Errorf("names %q, want %q", names, want)
	}
}

func readNames(t testing.TB, dir string) []string {
	t.Helper()
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestListingOfManyIsComplete lists 100,000 names in one go, with buffers of all
// sizes, and from places to which it went back.
func TestListingOfManyIsComplete(t *testing.T) {
	const count = 100_000
	members := []tar.Header{{Name: "d", Typeflag: tar.TypeDir}}
	var want []string
	for i := range count {
		name := fmt.Sprintf("%0*d", 5+i%60, i)
		want = append(want, name)
		members = append(members, tar.Header{Name: "d/" + name})
	}
	slices.Sort(want)
	fsys := open(t, members...)
	members = nil
	before := heap()
	dir := mount(t, fsys, Options{})
	for _, size := range []int{300, 4096, 1 << 20} {
		if got, _ := getdents(t, dir+"/d", size, 0); !slices.Equal(got, want) {
			t.Errorf("buffers of %d bytes: %d names, want %d", size, len(got), count)
		}
	}
	_, offsets := getdents(t, dir+"/d", 1<<20, 0)
	for _, at := range []int{0, 1, 777, count / 2, count - 1} {
		if got, _ := getdents(t, dir+"/d", 32<<10, offsets[at]); !slices.Equal(got, want[at+1:]) {
			t.Errorf("from the name after number %d: %d names, want %d", at, len(got), count-at-1)
		}
	}
	entries, err := os.ReadDir(dir + "/d")
	if err != nil || len(entries) != count {
		t.Fatalf("%d entries, error %v", len(entries), err)
	}
	for i := 0; i < count; i += 997 {
		info, err := entries[i].Info()
		if err != nil || info.Name() != want[i] {
			t.Errorf("entry %d: %v, want %s, error %v", i, info, want[i], err)
		}
	}
	entries, offsets = nil, nil
	if grown := heap() - before; grown > 16<<20 {
		t.Errorf("serving the directory keeps %d KiB", grown>>10)
	}
}

// heap returns the bytes of memory that are in use.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// getdents lists a directory from an offset on as getdents(2) gives it, the dots
// left out, with the offset that follows each name.
func getdents(t testing.TB, dir string, size int, from int64) (names []string, offsets []int64) {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := unix.Seek(int(f.Fd()), from, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, size)
	for {
		n, err := unix.Getdents(int(f.Fd()), buf)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return names, offsets
		}
		for rest := buf[:n]; len(rest) > 0; {
			record := binary.NativeEndian.Uint16(rest[16:])
			name, _, _ := strings.Cut(string(rest[19:record]), "\x00")
			if name != "." && name != ".." {
				names = append(names, name)
				offsets = append(offsets, int64(binary.NativeEndian.Uint64(rest[8:])))
			}
			rest = rest[record:]
		}
	}
}

// broken fails every read that reaches beyond good once it is told to.
type broken struct {
	*bytes.Reader
	good   int64
	broken atomic.Bool
}

func (b *broken) ReadAt(p []byte, off int64) (int, error) {
	if b.broken.Load() && off+int64(len(p)) > b.good {
		return 0, syscall.EILSEQ
	}
	return b.Reader.ReadAt(p, off)
}

func TestFailureOfTheDeviceIsEIO(t *testing.T) {
	file, l := layer(t, tar.Header{Name: "file", Linkname: "contents"}, tar.Header{Name: "other", Linkname: "contents"})
	dev := &broken{Reader: bytes.NewReader(file), good: 100}
	fsys, err := tardev.Open(dev, l.DataSize)
	if err != nil {
		t.Fatal(err)
	}
	heard := make(chan error, 10)
	dir := mount(t, fsys, Options{OnError: func(err error) { heard <- err }})
	f, err := os.Open(dir + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dev.broken.Store(true)
	if _, err := f.Read(make([]byte, 8)); !errors.Is(err, syscall.EIO) {
		t.Errorf("read: error %v", err)
	}
	if err := <-heard; !errors.Is(err, syscall.EILSEQ) {
		t.Errorf("reported: %v", err)
	}
	if _, err := os.Stat(dir + "/other"); !errors.Is(err, syscall.EIO) {
		t.Errorf("stat: error %v", err)
	}
}

// TestOverlay stacks two layers with the kernel's overlayfs, as a guest does.
func TestOverlay(t *testing.T) {
	lower := mount(t, open(t,
		tar.Header{Name: "a", Linkname: "lower"}, tar.Header{Name: "gone", Linkname: "lower"},
		tar.Header{Name: "d", Typeflag: tar.TypeDir}, tar.Header{Name: "d/hidden"},
		tar.Header{Name: "m", Typeflag: tar.TypeDir}, tar.Header{Name: "m/below"}), Options{})
	upper := mount(t, open(t,
		tar.Header{Name: "a", Linkname: "upper"}, tar.Header{Name: ".wh.gone"},
		tar.Header{Name: "d", Typeflag: tar.TypeDir}, tar.Header{Name: "d/.wh..wh..opq"}, tar.Header{Name: "d/seen"},
		tar.Header{Name: "m", Typeflag: tar.TypeDir}, tar.Header{Name: "m/above"}), Options{})
	work := t.TempDir()
	if err := syscall.Mount("tmpfs", work, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(work, 0) })
	for _, d := range []string{"upper", "work", "root"} {
		if err := os.Mkdir(filepath.Join(work, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	root := work + "/root"
	if err := syscall.Mount("none", root, "overlay", 0, fmt.Sprintf("lowerdir=%s:%s,upperdir=%s/upper,workdir=%s/work", upper, lower, work, work)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(root, 0) })
	if data, err := os.ReadFile(root + "/a"); err != nil || string(data) != "upper" {
		t.Errorf("a is %q, error %v", data, err)
	}
	for dir, want := range map[string]string{"": "a d m", "d": "seen", "m": "above below"} {
		names := readNames(t, filepath.Join(root, dir))
		slices.Sort(names)
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s/ has %q, want %q", dir, got, want)
		}
	}
	if err := os.WriteFile(root+"/m/below", []byte("copied up"), 0o644); err != nil {
		t.Error(err)
	}
}
