package storage

import (
	"fmt"
	"io/fs"
	"math"
	"os"
	"strconv"
	"syscall"

	"github.com/containerd/errdefs"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/guest/mount"
)

// noGroup is the group of a storage that asks for none.
const noGroup = -1

// gidOption reads the option fsgid=; [noGroup] is none.
func gidOption(options []string) (int, error) {
	v, ok := mount.Option(options, "fsgid")
	if !ok {
		return noGroup, nil
	}
	gid, err := strconv.ParseUint(v, 10, 32)
	if err != nil || gid == math.MaxUint32 { // the kernel's word for none
		return noGroup, fmt.Errorf("fsgid %q is no group: %w", v, errdefs.ErrInvalidArgument)
	}
	return int(gid), nil
}

// chgrp gives a directory to a group, as its new files will be.
func chgrp(dir string, gid int) error {
	if gid == noGroup {
		return nil
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if err := os.Chown(dir, -1, gid); err != nil {
		return err
	}
	return os.Chmod(dir, info.Mode().Perm()|os.ModeSetgid|0o070)
}

// applyGroup gives everything of a storage to the group it asks for. The file
// system may be a device that the host writes to meanwhile, so that every name is
// looked up below the mount point, whatever it has become since it was listed.
func applyGroup(st *agentpb.Storage) error {
	g := st.GetFsGroup()
	if g == nil {
		return nil
	}
	gid := int(g.GetGroupId())
	root, err := os.OpenRoot(st.GetMountPoint())
	if err != nil {
		return err
	}
	defer root.Close() // opened to look names up: there is nothing to lose
	top, err := root.Stat(".")
	if err != nil {
		return err
	}
	owner, ok := top.Sys().(*syscall.Stat_t)
	if g.GetGroupChangePolicy() == agentpb.FSGroupChangePolicy_OnRootMismatch && ok && int(owner.Gid) == gid && top.Mode()&os.ModeSetgid != 0 {
		return nil
	}
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return regroup(root, name, d, gid)
	})
}

// regroup gives what a directory listed to a group: readable and writable for it,
// a directory also as the group of its new files.
func regroup(root *os.Root, name string, d fs.DirEntry, gid int) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	if err = root.Lchown(name, -1, gid); err != nil || d.Type()&os.ModeSymlink != 0 {
		return err
	}
	mode := info.Mode()&(os.ModePerm|os.ModeSetuid|os.ModeSetgid|os.ModeSticky) | 0o060
	if d.IsDir() {
		mode |= os.ModeSetgid | 0o010
	}
	return root.Chmod(name, mode)
}
