package storage

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/internal/undo"
)

const group = 4711

func gidOf(t *testing.T, info fs.FileInfo) uint32 {
	t.Helper()
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		t.Fatal("no owner")
	}
	return st.Gid
}

// tree makes a directory with a file, a directory and a link out of it.
func tree(t *testing.T) (dir, outside string) {
	t.Helper()
	dir, outside = t.TempDir(), filepath.Join(t.TempDir(), "secret")
	err := errors.Join(
		os.WriteFile(outside, nil, 0o600), os.Mkdir(filepath.Join(dir, "sub"), 0o700),
		os.WriteFile(filepath.Join(dir, "sub", "file"), nil, 0o600), os.Symlink(outside, filepath.Join(dir, "link")),
	)
	if err != nil {
		t.Fatal(err)
	}
	return dir, outside
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("files are given to a group by root only")
	}
}

func TestGroupOwnsAllOfAStorage(t *testing.T) {
	needRoot(t)
	dir, outside := tree(t)
	st := &agentpb.Storage{MountPoint: dir, FsGroup: &agentpb.FSGroup{GroupId: group}}
	if err := applyGroup(st); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]fs.FileMode{
		"": fs.ModeDir | fs.ModeSetgid | 0o775, "sub": fs.ModeDir | fs.ModeSetgid | 0o770, "sub/file": 0o660,
	} {
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != mode || gidOf(t, info) != group {
			t.Errorf("%q is %v of group %d, want %v of %d", name, info.Mode(), gidOf(t, info), mode, group)
		}
	}
	info, err := os.Stat(outside)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o600 || gidOf(t, info) == group {
		t.Errorf("what a link leads to is %v of group %d", info.Mode(), gidOf(t, info))
	}
}

func TestGroupIsLeftWhereTheRootHasIt(t *testing.T) {
	needRoot(t)
	dir, _ := tree(t)
	if err := errors.Join(os.Chown(dir, -1, group), os.Chmod(dir, 0o755|os.ModeSetgid)); err != nil {
		t.Fatal(err)
	}
	st := &agentpb.Storage{MountPoint: dir, FsGroup: &agentpb.FSGroup{GroupId: group, GroupChangePolicy: agentpb.FSGroupChangePolicy_OnRootMismatch}}
	if err := applyGroup(st); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "sub"))
	if err != nil {
		t.Fatal(err)
	}
	if gidOf(t, info) == group {
		t.Error("the policy OnRootMismatch walked a tree whose root has the group")
	}
}

// A host that writes to the device can make a link of a file that was listed.
func TestGroupDoesNotLeaveTheStorage(t *testing.T) {
	needRoot(t)
	dir, outside := tree(t)
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	info, err := os.Lstat(filepath.Join(dir, "sub", "file"))
	if err != nil {
		t.Fatal(err)
	}
	if err = regroup(root, "link", fs.FileInfoToDirEntry(info), group); err == nil {
		t.Error("a link out of the storage was given to the group")
	}
	if info, err = os.Stat(outside); err != nil || info.Mode() != 0o600 || gidOf(t, info) == group {
		t.Errorf("outside of the storage there is %v, %v", info.Mode(), err)
	}
}

func TestGroupOption(t *testing.T) {
	for option, want := range map[string]int{"size=1": noGroup, "fsgid=0": 0, "fsgid=4294967294": 1<<32 - 2} {
		if got, err := gidOption([]string{option}); got != want || err != nil {
			t.Errorf("%s gives %d, %v", option, got, err)
		}
	}
	for _, v := range []string{"", "-1", "x", "4294967295", "4294967296"} {
		for driver, mount := range drivers {
			if driver != driverLocal && driver != driverEphemeral {
				continue
			}
			dir := filepath.Join(t.TempDir(), "v")
			st := &agentpb.Storage{Driver: driver, MountPoint: dir, Options: []string{"fsgid=" + v}}
			if err := mount(t.Context(), &job{st: st, undo: &undo.Stack{}}); !errdefs.IsInvalidArgument(err) {
				t.Errorf("driver %s with the group %q gives %v", driver, v, err)
			}
			if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("driver %s with the group %q left %s: %v", driver, v, dir, err)
			}
		}
	}
}
