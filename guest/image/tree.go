package image

import (
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/kata-cc/kata-cc/guest/image/cpio"
	"github.com/kata-cc/kata-cc/guest/image/debian"
)

// node is one file of the image with where it came from.
type node struct {
	cpio.Entry
	origin string // "crun 1.8.1-1", "agent", or empty for what the builder made
}

// tree is the guest's file system as it is put together. Paths are absolute;
// the folders above a path come by themselves.
type tree map[string]node

func (t tree) add(name string, n node) error {
	name = path.Clean("/" + name)
	if _, there := t[name]; there {
		return fmt.Errorf("guest image: %s is made twice", name)
	}
	t.parents(name)
	n.Path = strings.TrimPrefix(name, "/")
	t[name] = n
	return nil
}

func (t tree) parents(name string) {
	for dir := path.Dir(name); dir != "/"; dir = path.Dir(dir) {
		if _, there := t[dir]; there {
			return
		}
		t[dir] = node{Entry: cpio.Entry{Path: dir[1:], Mode: fs.ModeDir | 0o755}}
	}
}

func (t tree) dir(name string, mode fs.FileMode) error {
	return t.add(name, node{Entry: cpio.Entry{Mode: fs.ModeDir | mode}})
}

func (t tree) file(name string, mode fs.FileMode, data []byte, origin string) error {
	return t.add(name, node{Entry: cpio.Entry{Mode: mode, Data: data}, origin: origin})
}

func (t tree) link(name, target string) error {
	return t.add(name, node{Entry: cpio.Entry{Mode: fs.ModeSymlink | 0o777, Data: []byte(target)}})
}

func (t tree) charDevice(name string, mode fs.FileMode, major, minor uint32) error {
	return t.add(name, node{Entry: cpio.Entry{Mode: fs.ModeDevice | fs.ModeCharDevice | mode, Major: major, Minor: minor}})
}

// packaged puts a package's file at name.
func (t tree) packaged(name string, f debian.File) error {
	return t.file(name, f.Mode.Perm(), f.Data, origin(f.Package))
}

func origin(p debian.Package) string { return p.Name + " " + p.Version }

// entries returns the tree's nodes in the order of their paths.
func (t tree) entries() []cpio.Entry {
	var all []cpio.Entry
	for _, name := range slices.Sorted(maps.Keys(t)) {
		all = append(all, t[name].Entry)
	}
	return all
}
