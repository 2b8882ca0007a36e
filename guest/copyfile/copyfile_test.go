package copyfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

// request is a whole regular file of the user who runs the tests.
func request(path, data string) *agentpb.CopyFileRequest {
	return &agentpb.CopyFileRequest{
		Path: path, FileSize: int64(len(data)), FileMode: unix.S_IFREG | 0o600, Data: []byte(data),
		Uid: int32(os.Getuid()), Gid: int32(os.Getgid()),
	}
}

func TestFilesWithOneStemDoNotMeet(t *testing.T) {
	dir := t.TempDir()
	f := New(dir)
	first := func(name string) *agentpb.CopyFileRequest {
		r := request(dir+"/"+name, name)
		r.Data = r.GetData()[:1]
		return r
	}
	for _, name := range []string{"a.json", "a.yaml"} {
		if err := f.Copy(t.Context(), first(name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"a.json", "a.yaml"} {
		r := request(dir+"/"+name, name)
		r.Offset, r.Data = 1, r.GetData()[1:]
		if err := f.Copy(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(dir, name)); string(got) != name || err != nil {
			t.Errorf("%s holds %q, %v", name, got, err)
		}
	}
	if len(f.pending) != 0 {
		t.Errorf("%d files are still awaited", len(f.pending))
	}
	if left, _ := os.ReadDir(dir); len(left) != 2 {
		t.Errorf("the directory holds %v", left)
	}
}

// Links have names of their own while they are made, too.
func TestLinksDoNotMeet(t *testing.T) {
	dir := t.TempDir()
	f := New(dir)
	longest := strings.Repeat("n", 255)
	names := []string{"a.link", "a", longest}
	for _, name := range names {
		r := request(dir+"/"+name, "..data/"+name)
		r.FileMode, r.FileSize = unix.S_IFLNK|0o777, 0
		if err := f.Copy(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range names {
		if got, err := os.Readlink(filepath.Join(dir, name)); got != "..data/"+name || err != nil {
			t.Errorf("%s leads to %q, %v", name, got, err)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != len(names) {
		t.Errorf("the directory holds %v", left)
	}
}

func TestBeginningAnewReplacesALongerBeginning(t *testing.T) {
	dir := t.TempDir()
	f := New(dir)
	long := request(dir+"/x", strings.Repeat("l", 100))
	long.Data = long.GetData()[:50]
	if err := f.Copy(t.Context(), long); err != nil {
		t.Fatal(err)
	}
	if err := f.Copy(t.Context(), request(dir+"/x", "short")); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(dir + "/x"); string(got) != "short" || err != nil {
		t.Errorf("the file holds %q, %v", got, err)
	}
}

// The root of a container may be mounted beside the files, so neither a link nor
// a mount leads anywhere, whatever is copied.
func TestNoWayThroughLinksAndMounts(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	beside, mounted := filepath.Join(dir, "beside"), filepath.Join(dir, "mounted")
	for _, d := range []string{beside, mounted} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	ways := map[string]string{"out": outside, "in": "beside", "mounted": ""}
	if err := unix.Mount(outside, mounted, "", unix.MS_BIND, ""); err != nil {
		delete(ways, "mounted") // not root
	} else {
		defer unix.Unmount(mounted, unix.MNT_DETACH)
	}
	f := New(dir)
	for name, target := range ways {
		if target != "" {
			if err := f.Copy(t.Context(), &agentpb.CopyFileRequest{Path: filepath.Join(dir, name), FileMode: unix.S_IFLNK | 0o777, Data: []byte(target)}); err != nil {
				t.Fatal(err)
			}
		}
		for what, r := range map[string]*agentpb.CopyFileRequest{
			"a file":                {Path: dir + "/" + name + "/x", FileMode: unix.S_IFREG | 0o600},
			"a file further down":   {Path: dir + "/" + name + "/d/x", FileMode: unix.S_IFREG | 0o600, DirMode: 0o700},
			"a link":                {Path: dir + "/" + name + "/x", FileMode: unix.S_IFLNK | 0o777, Data: []byte("y")},
			"a directory":           {Path: dir + "/" + name + "/x", FileMode: unix.S_IFDIR | 0o777},
			"mode of the directory": {Path: dir + "/" + name, FileMode: unix.S_IFDIR | 0o777},
		} {
			if err := f.Copy(t.Context(), r); err == nil {
				t.Errorf("%s through %s", what, name)
			}
		}
	}
	for _, d := range []string{outside, beside} {
		info, err := os.Stat(d)
		if left, _ := os.ReadDir(d); err != nil || len(left) != 0 || info.Mode().Perm() == 0o777 {
			t.Errorf("%s has mode %v and holds %v", d, info.Mode(), left)
		}
	}
	if err := f.Copy(t.Context(), request(dir+"/.incoming-9", "x")); !errdefs.IsInvalidArgument(err) {
		t.Errorf("the name of a file in the making: %v", err)
	}
}

func TestOldVersionOfAVolumeGoes(t *testing.T) {
	dir := t.TempDir()
	f := New(dir)
	link := func(target string) {
		t.Helper()
		r := request(dir+"/v/..data", target)
		r.FileMode = unix.S_IFLNK | 0o777
		if err := f.Copy(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	for _, version := range []string{"..2026_1", "..2026_2"} {
		if err := f.Copy(t.Context(), request(dir+"/v/"+version+"/token", version)); err != nil {
			t.Fatal(err)
		}
		link(version)
	}
	link("..2026_2") // once more: it stays
	if got, err := os.ReadFile(dir + "/v/..data/token"); string(got) != "..2026_2" || err != nil {
		t.Errorf("the token is %q, %v", got, err)
	}
	if _, err := os.Stat(dir + "/v/..2026_1"); !os.IsNotExist(err) {
		t.Errorf("the old version stays: %v", err)
	}
	link("..")
	link("../..")
	link("plain")
	if _, err := os.Stat(dir); err != nil {
		t.Error(err)
	}
}

func TestOtherFileTypesAreRefused(t *testing.T) {
	dir := t.TempDir()
	r := request(dir+"/x", "")
	r.FileMode = unix.S_IFCHR | 0o600
	if err := New(dir).Copy(t.Context(), r); !errdefs.IsInvalidArgument(err) {
		t.Errorf("error is %v", err)
	}
}

func FuzzBelow(f *testing.F) {
	for _, s := range []string{"/run/kata-containers/x", "/run/kata-containers/../x", "/run/kata-containers//x", "/run/kata-containersx"} {
		f.Add(s)
	}
	files := New("/run/kata-containers")
	f.Fuzz(func(t *testing.T, p string) {
		name, err := files.below(p)
		if err != nil {
			return
		}
		if !filepath.IsLocal(name) || filepath.Join(files.dir, name) != p {
			t.Errorf("%q is %q below the directory", p, name)
		}
	})
}

func TestCopiesGoWithTheirContainer(t *testing.T) {
	dir := t.TempDir()
	f := New(dir)
	const digits = "0123456789abcdef"
	for _, name := range []string{"c-" + digits + "-hosts", "c-" + digits + "-v/x", "c-2-" + digits + "-hosts", "c/rootfs"} {
		if err := f.Copy(t.Context(), request(dir+"/"+name, name)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second time there is nothing
		if err := f.RemoveCopies("c"); err != nil {
			t.Fatal(err)
		}
	}
	left, err := filepath.Glob(dir + "/*")
	if err != nil || len(left) != 2 || filepath.Base(left[0]) != "c" || filepath.Base(left[1]) != "c-2-"+digits+"-hosts" {
		t.Errorf("left are %v, %v", left, err)
	}
	if err := New(t.TempDir()).RemoveCopies("c"); err != nil {
		t.Errorf("without any copy: %v", err)
	}
}

func TestVersionsThatWereLeftAreRemoved(t *testing.T) {
	dir := t.TempDir()
	f := New(dir)
	symlink := func(name, target string) *agentpb.CopyFileRequest {
		r := request(dir+"/v/"+name, target)
		r.FileMode, r.FileSize = unix.S_IFLNK|0o777, 0
		return r
	}
	half := request(dir+"/v/..2/half", "ab")
	half.Data = half.GetData()[:1]
	for _, r := range []*agentpb.CopyFileRequest{
		request(dir+"/v/..1/a", "1"), request(dir+"/v/..1/gone", "1"), symlink("..data", "..1"), symlink("a", "..data/a"), symlink("gone", "..data/gone"),
		symlink("elsewhere", "nowhere"), half, request(dir+"/v/..3/a", "3"), symlink("..data", "..3"),
	} {
		if err := f.Copy(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	entries, err := os.ReadDir(dir + "/v")
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if got := strings.Join(names, " "); err != nil || got != "..3 ..data a elsewhere" {
		t.Errorf("the volume holds %s, %v", got, err)
	}
	if len(f.pending) != 0 {
		t.Errorf("%d files are still awaited", len(f.pending))
	}
}
