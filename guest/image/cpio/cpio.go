// Package cpio writes archives in the "newc" format that Linux unpacks as its
// initial ramdisk (Documentation/driver-api/early-userspace/buffer-format.rst),
// so that the same entries always give the same bytes.
package cpio

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"
	"strings"
	"time"
)

// Entry is one file of an archive.
type Entry struct {
	// Path has no leading slash ("bin/sh"); a directory must precede what is in
	// it, which the order of paths gives.
	Path string
	// Mode has the type and the permissions; files, directories, symbolic links
	// and device nodes can be written.
	Mode fs.FileMode
	// Data is a file's content or a symbolic link's target.
	Data []byte
	// Major and Minor number a device node.
	Major, Minor uint32
}

const (
	magic   = "070701"
	trailer = "TRAILER!!!"
)

// Bits of a newc mode, as in stat(2).
const (
	typeFile    = 0o100000
	typeDir     = 0o040000
	typeLink    = 0o120000
	typeChar    = 0o020000
	typeBlock   = 0o060000
	setuidBit   = 0o4000
	setgidBit   = 0o2000
	stickyBit   = 0o1000
	rootLinks   = 1
	folderLinks = 2
)

// Write writes an archive of the entries, sorted by path, all owned by root,
// with the given modification time and inode numbers from 1. Two entries of one
// path are an error.
func Write(w io.Writer, entries []Entry, modified time.Time) error {
	sorted := slices.SortedFunc(slices.Values(entries), func(a, b Entry) int { return cmp.Compare(a.Path, b.Path) })
	out := &writer{w: bufio.NewWriterSize(w, 1<<16), modified: uint32(modified.Unix())}
	for i, e := range sorted {
		if i > 0 && sorted[i-1].Path == e.Path {
			return fmt.Errorf("cpio: %s stands twice in the archive", e.Path)
		}
		if e.Path == "" || e.Path == trailer || strings.HasPrefix(e.Path, "/") || strings.ContainsRune(e.Path, 0) {
			return fmt.Errorf("cpio: %q cannot be the name of an entry", e.Path)
		}
		if len(e.Data) > math.MaxUint32 {
			return fmt.Errorf("cpio: %s has %d bytes, the format ends at 4 GiB", e.Path, len(e.Data))
		}
		mode, links, err := mode(e)
		if err != nil {
			return err
		}
		out.entry(uint32(i+1), mode, links, e)
	}
	out.entry(0, 0, rootLinks, Entry{Path: trailer})
	if out.err != nil {
		return out.err
	}
	return out.w.Flush()
}

func mode(e Entry) (bits, links uint32, err error) {
	bits, links = uint32(e.Mode.Perm()), rootLinks
	switch e.Mode.Type() {
	case 0:
		bits |= typeFile
	case fs.ModeDir:
		bits, links = bits|typeDir, folderLinks
	case fs.ModeSymlink:
		bits |= typeLink
	case fs.ModeDevice | fs.ModeCharDevice:
		bits |= typeChar
	case fs.ModeDevice:
		bits |= typeBlock
	default:
		return 0, 0, fmt.Errorf("cpio: %s: files of mode %s cannot be written", e.Path, e.Mode)
	}
	for _, b := range []struct {
		mode fs.FileMode
		bit  uint32
	}{{fs.ModeSetuid, setuidBit}, {fs.ModeSetgid, setgidBit}, {fs.ModeSticky, stickyBit}} {
		if e.Mode&b.mode != 0 {
			bits |= b.bit
		}
	}
	return bits, links, nil
}

// writer counts what it wrote, because both the name and the data of an entry
// end at a multiple of four.
type writer struct {
	w        *bufio.Writer
	modified uint32
	written  int64
	err      error
}

func (w *writer) entry(inode, mode, links uint32, e Entry) {
	// ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor
	// rdevminor namesize check
	w.write([]byte(magic))
	for _, v := range []uint32{
		inode, mode, 0, 0, links, w.modified, uint32(len(e.Data)), 0, 0, e.Major, e.Minor, uint32(len(e.Path) + 1), 0,
	} {
		w.write(fmt.Appendf(nil, "%08X", v))
	}
	w.write(append([]byte(e.Path), 0))
	w.pad()
	w.write(e.Data)
	w.pad()
}

func (w *writer) write(b []byte) {
	if w.err != nil {
		return
	}
	n, err := w.w.Write(b)
	w.written, w.err = w.written+int64(n), err
}

func (w *writer) pad() {
	w.write(make([]byte, (4-w.written%4)%4))
}
