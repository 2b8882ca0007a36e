package tardev

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

const (
	// maxLinuxName and maxLinuxPath bound in bytes what Linux can name.
	maxLinuxName = 255
	maxLinuxPath = 4095
	// maxMtime is the last second that an inode can hold.
	maxMtime = 1<<36 - 1
)

func (x *index) lostOf(m *member, format string, args ...any) {
	x.lost(string(m.path), fmt.Sprintf(format, args...))
}

// typeName names a type that the format does not have.
func typeName(typeflag byte) string {
	switch typeflag {
	case '7':
		return "a contiguous file"
	case 'S':
		return "a GNU sparse file"
	case 'L', 'K', 'x':
		return "a long name or extended header without the magic number of one"
	case 'V', 'M', 'D', 'N':
		return fmt.Sprintf("GNU's %q", typeflag)
	}
	return fmt.Sprintf("%q", typeflag)
}

// nameLosses reports names that Linux does not allow.
func (x *index) nameLosses(m *member, name []byte) {
	switch {
	case len(name) > maxLinuxName:
		x.lostOf(m, "the whole entry, whose name is longer than Linux allows: %d bytes", len(name))
	case !ValidName(string(name)):
		x.lostOf(m, "the whole entry, whose name Linux does not allow: %q", name)
	}
	if m.header.typeflag() == '2' && len(m.link) > maxLinuxPath {
		x.lostOf(m, "its target, which is longer than Linux allows: %d bytes", len(m.link))
	}
}

// readingLosses reports where the format takes a tar for something else than POSIX
// and other programs do.
func (x *index) readingLosses(m *member) {
	var path, link, size []byte // of the extended header
	for key, value := range paxRecords(m.pax) {
		switch string(key) {
		case "path":
			path = value
		case "linkpath":
			link = value
		case "size":
			size = value
		case "":
			x.lostOf(m, "what its extended header says from here on, which is malformed: %.60q", value)
		}
	}
	x.headerPath = m.header.appendPath(x.headerPath[:0])
	if other := firstOf(truncate(m.gnuPath), path, x.headerPath); !bytes.Equal(other, m.path) {
		x.lostOf(m, "its path, which by POSIX is %.200q", other)
	}
	kind := m.header.typeflag()
	if kind == '1' || kind == '2' {
		if other := firstOf(truncate(m.gnuLink), link, m.header.link()); !bytes.Equal(other, m.link) {
			x.lostOf(m, "its target, which by POSIX is %.200q", other)
		}
	}
	if n, err := parseDecimal(string(size)); size != nil && (err != nil || n != m.size) {
		x.lostOf(m, "its size, which by POSIX is %.40q", size)
	}
	if m.size > 0 && '1' <= kind && kind <= '6' {
		x.lostOf(m, "%d bytes of data: other programs take them for the next members", m.size)
	}
	if kind == 0 && bytes.HasSuffix(m.path, []byte{'/'}) {
		x.lostOf(m, "that it is a directory, as the slash says in old tars")
	}
}

// firstOf returns the first text that is not empty.
func firstOf(texts ...[]byte) []byte {
	for _, t := range texts {
		if len(t) > 0 {
			return t
		}
	}
	return nil
}

// rootLosses reports what an entry for the root says in vain.
func (x *index) rootLosses(m *member, mode uint64) {
	uid, _ := m.header.uid()
	gid, _ := m.header.gid()
	if mode&0o777 != 0o555 || uid != 0 || gid != 0 {
		x.lostOf(m, "mode %03o and owner %d:%d of the root directory, which has 555 and 0:0", mode&0o777, uid, gid)
	}
}

// losses reports what a member has and the format cannot hold.
func (x *index) losses(m *member, mode uint64) {
	for _, bit := range []struct {
		mask uint64
		name string
	}{{0o4000, "setuid"}, {0o2000, "setgid"}, {0o1000, "sticky bit"}} {
		if mode&bit.mask != 0 {
			x.lost(string(m.path), bit.name)
		}
	}
	uid, uidErr := m.header.uid()
	gid, gidErr := m.header.gid()
	if uidErr != nil || gidErr != nil {
		x.lostOf(m, "its owner, which is no number and becomes %d:%d", uid, gid)
	}
	if uid > math.MaxUint32 || gid > math.MaxUint32 {
		x.lostOf(m, "high bits of owner %d:%d", uid, gid)
	}
	mtime, err := m.header.mtime()
	if err != nil {
		x.lost(string(m.path), "its time, which is no number and becomes 0")
	}
	if mtime > maxMtime {
		x.lostOf(m, "high bits of its time, which is %d", int64(mtime))
	}
	sparse := false
	for key, value := range paxRecords(m.pax) {
		if bytes.HasPrefix(key, []byte("GNU.sparse.")) && !sparse {
			sparse = true
			x.lost(string(m.path), "its holes: it has the condensed form of a sparse file as content")
		}
		if what := paxLoss(string(key), value, uid, gid, mtime); what != "" {
			x.lost(string(m.path), what)
		}
	}
}

// paxLoss says what of a record of an extended header is lost, if anything is.
func paxLoss(key string, value []byte, uid, gid, mtime uint64) string {
	for _, prefix := range []string{"SCHILY.xattr.", "LIBARCHIVE.xattr."} {
		if name, ok := strings.CutPrefix(key, prefix); ok {
			return fmt.Sprintf("extended attribute %.255s", name)
		}
	}
	differs := func(is uint64) bool {
		n, err := parseDecimal(string(value))
		return err != nil || n != is
	}
	switch {
	case key == "SCHILY.fflags":
		return fmt.Sprintf("file flags %.100q", value)
	case strings.HasPrefix(key, "SCHILY.acl."):
		return "access control list"
	case key == "GNU.sparse.name":
		return fmt.Sprintf("its name %.200q", value)
	case key == "uid" && differs(uid), key == "gid" && differs(gid):
		return fmt.Sprintf("%s %.40q of the extended header: the header's counts", key, value)
	case key == "mtime":
		return paxTimeLoss(value, mtime)
	}
	return ""
}

// paxTimeLoss says what is lost of a time in an extended header: all of it if the
// header has another, else the fraction of the second.
func paxTimeLoss(value []byte, mtime uint64) string {
	whole, fraction, _ := bytes.Cut(value, []byte{'.'})
	if n, err := strconv.ParseInt(string(whole), 10, 64); err != nil || uint64(n) != mtime {
		return fmt.Sprintf("time %.40q of the extended header: the header's counts, which is %s", value, time.Unix(int64(mtime), 0).UTC().Format(time.RFC3339))
	}
	if len(bytes.Trim(fraction, "0")) > 0 {
		return "fraction of the second of its time"
	}
	return ""
}

// paxRecords yields the records of an extended header as POSIX has them, each as
// long as it says. If one is malformed, it yields the rest without a key and ends.
func paxRecords(b []byte) func(yield func(key, value []byte) bool) {
	return func(yield func(key, value []byte) bool) {
		for len(b) > 0 {
			length, _, ok := bytes.Cut(b[:min(len(b), 20)], []byte{' '})
			n, err := strconv.ParseUint(string(length), 10, 32)
			end := int(n)
			if !ok || err != nil || end <= len(length)+1 || end > len(b) || b[end-1] != '\n' {
				yield(nil, b)
				return
			}
			key, value, ok := bytes.Cut(b[len(length)+1:end-1], []byte{'='})
			if !ok {
				yield(nil, b)
				return
			}
			if !yield(key, value) {
				return
			}
			b = b[end:]
		}
	}
}
