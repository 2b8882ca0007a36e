package tardev

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"testing"
)

// seen is a file as archive/tar shows it.
type seen struct {
	kind     uint32
	header   *tar.Header
	data     []byte
	opaque   bool
	unlisted bool // a loss that was told concerns it under another name
}

// view is the tree that a tar describes by archive/tar.
type view map[string]*seen

// key is the path of a file as a view has it: clean, without a leading slash.
func key(name string) string {
	name, _, _ = strings.Cut(name, "\x00")
	return strings.TrimPrefix(path.Clean("/"+name), "/")
}

// viewOf reads a whole tar; ok says whether archive/tar can.
func viewOf(blob []byte) (v view, ok bool) {
	v = view{}
	r := tar.NewReader(bytes.NewReader(blob))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return v, true
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return nil, false
		}
		data, err := io.ReadAll(io.LimitReader(r, 1<<20))
		if err != nil || len(data) == 1<<20 {
			return nil, false
		}
		v.enter(h, data)
	}
}

var posixKinds = map[byte]uint32{
	tar.TypeReg: modeRegular, tar.TypeSymlink: modeSymlink, tar.TypeChar: modeChar,
	tar.TypeBlock: modeBlock, tar.TypeDir: modeDir, tar.TypeFifo: modeFIFO,
}

func (v view) enter(h *tar.Header, data []byte) {
	p := key(h.Name)
	dir, base := path.Split(p)
	if p == "" {
		return
	}
	drop := func(below string) {
		for q := range v {
			if strings.HasPrefix(q, below+"/") {
				delete(v, q)
			}
		}
	}
	if hidden, ok := strings.CutPrefix(base, ".wh."); ok {
		if base == ".wh..wh..opq" {
			if d := v[strings.TrimSuffix(dir, "/")]; d != nil {
				d.opaque = true
			}
			return
		}
		p = dir + hidden
		if old := v[p]; old != nil {
			old.unlisted = true // with all its hard links
		}
		drop(p)
		v[p] = &seen{unlisted: true}
		return
	}
	if h.Typeflag == tar.TypeLink {
		if target := v[key(h.Linkname)]; target != nil && target.kind == modeRegular {
			v[p] = target
		} else {
			v[p] = &seen{unlisted: true}
		}
		return
	}
	if kind, ok := posixKinds[h.Typeflag]; ok {
		v[p] = &seen{kind: kind, header: h, data: data}
		drop(p)
	}
}

// losses are what was told of a tar: paths of which nothing need be right, and of
// which all but owner and time must be.
type losses struct{ whole, attributes map[string]bool }

var attributeLosses = []string{
	"setuid", "setgid", "sticky bit", "extended attribute", "access control list", "file flags",
	"fraction of", "time ", "uid ", "gid ", "its owner", "its time", "high bits",
}

// uncomparable are losses after which the two readers speak of other files.
var uncomparable = []string{"its path", "its target", "its size", "its holes", "its name", "bytes of data",
	"without the magic", "the names of all files", "malformed"}

func (l losses) told(p, what string) (comparable bool) {
	if len(p) > maxLinuxPath {
		return false // it is cut
	}
	for _, u := range uncomparable {
		if strings.Contains(what, u) {
			return false
		}
	}
	at := l.whole
	for _, a := range attributeLosses {
		if strings.HasPrefix(what, a) {
			at = l.attributes
		}
	}
	p = key(p)
	at[p] = true
	if dir, base := path.Split(p); base == ".wh..wh..opq" {
		at[strings.TrimSuffix(dir, "/")] = true
	} else if strings.HasPrefix(base, ".wh.") {
		at[dir+strings.TrimPrefix(base, ".wh.")] = true
	}
	return true
}

// concern says whether something of a path or of a directory above it was told to
// be lost.
func (l losses) concern(p string) bool {
	for ; p != ""; p = strings.TrimSuffix(path.Dir("/" + p)[1:], "/") {
		if l.whole[p] {
			return true
		}
	}
	return false
}

// agree compares a view with a layer.
func (v view) agree(t *testing.T, fsys *FS, l losses) {
	t.Helper()
	for p, want := range v {
		if want.unlisted || l.concern(p) {
			continue
		}
		n, err := fsys.Inode(RootIno)
		for part := range strings.SplitSeq(p, "/") {
			if err == nil {
				n, err = fsys.Lookup(n, part)
			}
		}
		if err != nil {
			t.Errorf("%.200q: %v; told was %.1000s", p, err, fmt.Sprint(l))
			continue
		}
		if diff := want.differs(fsys, n, l.attributes[p]); diff != "" {
			t.Errorf("%.200q: %s; told was %.1000s", p, diff, fmt.Sprint(l))
		}
	}
}

// differs says what is not the same of a file; with loose, owner and time may be
// others.
func (s *seen) differs(fsys *FS, n Inode, loose bool) string {
	h := s.header
	switch {
	case n.Mode != s.kind|uint32(h.Mode)&0o777:
		return fmt.Sprintf("mode %o, want %o", n.Mode, s.kind|uint32(h.Mode)&0o777)
	case !loose && (int64(n.UID) != int64(h.Uid) || int64(n.GID) != int64(h.Gid)):
		return fmt.Sprintf("owner %d:%d, want %d:%d", n.UID, n.GID, h.Uid, h.Gid)
	case !loose && n.Mtime != h.ModTime.Unix():
		return fmt.Sprintf("time %d, want %d", n.Mtime, h.ModTime.Unix())
	case n.Opaque != s.opaque:
		return fmt.Sprintf("opaque %t, want %t", n.Opaque, s.opaque)
	}
	switch {
	case n.IsRegular():
		data, err := io.ReadAll(io.NewSectionReader(readerOf{fsys, n}, 0, int64(n.Size)))
		if err != nil || !bytes.Equal(data, s.data) {
			return fmt.Sprintf("content %.40q, error %v, want %.40q", data, err, s.data)
		}
	case n.IsSymlink():
		if target, err := fsys.Readlink(n); err != nil || target != h.Linkname {
			return fmt.Sprintf("target %q, error %v, want %q", target, err, h.Linkname)
		}
	case n.IsDevice():
		if major, minor := n.Device(); int64(major) != h.Devmajor || int64(minor) != h.Devminor {
			return fmt.Sprintf("device %d:%d, want %d:%d", major, minor, h.Devmajor, h.Devminor)
		}
	}
	return ""
}

// repair gives every header its checksum, so that a mutation of a header reaches
// what comes after that.
func repair(blob []byte) []byte {
	blob = bytes.Clone(blob)
	for at := 0; at+tarBlock <= len(blob); {
		h := (*header)(blob[at:])
		if h.isZero() {
			break
		}
		sum := 8 * int(' ')
		for i, b := range h {
			if i < 148 || i >= 156 {
				sum += int(b)
			}
		}
		copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
		size, err := h.size()
		if err != nil || size > uint64(len(blob)) {
			break
		}
		at += tarBlock + int((size+tarBlock-1)&^(tarBlock-1))
	}
	return blob
}

// otherDialect says whether a header has fields that archive/tar reads by the
// rules of star or of its own old mistakes, and the format does not.
func otherDialect(blob []byte) bool {
	for at := 0; at+tarBlock <= len(blob); at += tarBlock {
		h := (*header)(blob[at:])
		if h.isUSTAR() && string(h[508:512]) == "tar\x00" || h.isGNU() && !bytes.Equal(h[345:500], make([]byte, 155)) {
			return true
		}
	}
	return false
}

// compareWithArchiveTar is the property: of a tar that both can read, every file
// is the same by either, unless a loss was told.
func compareWithArchiveTar(t *testing.T, blob []byte) {
	t.Helper()
	v, ok := viewOf(blob)
	if !ok || otherDialect(blob) {
		return
	}
	comparable := true
	l := losses{map[string]bool{}, map[string]bool{}}
	var file bytes.Buffer
	layer, err := Build(t.Context(), &file, bytes.NewReader(blob), BuildOptions{Lost: func(path, what string) {
		comparable = l.told(path, what) && comparable
	}})
	if err != nil || !comparable {
		return
	}
	fsys, err := Open(bytes.NewReader(file.Bytes()), layer.DataSize)
	if err != nil {
		t.Fatal(err)
	}
	v.agree(t, fsys, l)
}

// FuzzAgainstArchiveTar takes any tar, its checksums made right.
func FuzzAgainstArchiveTar(f *testing.F) {
	for _, n := range corpus() {
		if len(n.blob) < 20<<10 {
			f.Add(n.blob)
		}
	}
	f.Fuzz(func(t *testing.T, blob []byte) {
		compareWithArchiveTar(t, repair(blob))
	})
}

// FuzzMembers makes tars of members by number: each two bytes are what and which
// path, so that members meet more often than in any tar.
func FuzzMembers(f *testing.F) {
	f.Add([]byte("0d0f1a2b3c"))
	f.Fuzz(func(t *testing.T, steps []byte) {
		names := []string{"a", "b", ".wh.a", ".wh..wh..opq", "a/b", "b/a", "a/a/b", "./a/", "/b", "a/.wh.b", "a/.wh..wh..opq", "b/../a", strings.Repeat("n", 101), "\xff"}
		name := func(b byte) string { return names[int(b)%len(names)] }
		var members [][]byte
		for ; len(steps) >= 3 && len(members) < 60; steps = steps[3:] {
			p, other := name(steps[1]), name(steps[2])
			switch steps[0] % 10 {
			case 0, 1:
				members = append(members, dir(p))
			case 2:
				members = append(members, reg(p, other))
			case 3:
				members = append(members, hard(p, other))
			case 4:
				members = append(members, sym(p, other))
			case 5:
				members = append(members, longTarget(other+strings.Repeat("t", 120)), sym(p, ""))
			case 6:
				members = append(members, pax("path="+other), reg(p, "data"))
			case 7:
				members = append(members, longName(other), dir(p))
			case 8:
				members = append(members, member0(p, "3467"[steps[2]%4]))
			case 9:
				members = append(members, member0(p, '0', func(h *header) { binary.BigEndian.PutUint16(h[100+int(steps[2])%48:], uint16(steps[2])) }))
			}
		}
		compareWithArchiveTar(t, rawTar(members...))
	})
}
