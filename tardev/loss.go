package tardev

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"time"
)

const (
	// maxLinuxName and maxLinuxPath bound in bytes what Linux can name.
	maxLinuxName = 255
	maxLinuxPath = 4095
	// maxMtime is the last second that an inode can hold.
	maxMtime = 1<<36 - 1
)

// losses reports what a member has and the format cannot hold.
func (x *index) losses(m *member, mode uint64) {
	lost := func(format string, args ...any) { x.lost(string(m.path), fmt.Sprintf(format, args...)) }
	uid, _ := m.header.uid()
	gid, _ := m.header.gid()
	if len(x.parts) == 0 && (mode&0o777 != 0o555 || uid != 0 || gid != 0) {
		lost("mode %03o and owner %d:%d of the root directory, which has 555 and 0:0", mode&0o777, uid, gid)
	}
	for _, bit := range []struct {
		mask uint64
		name string
	}{{0o4000, "setuid"}, {0o2000, "setgid"}, {0o1000, "sticky bit"}} {
		if mode&bit.mask != 0 {
			lost("%s", bit.name)
		}
	}
	if uid > math.MaxUint32 || gid > math.MaxUint32 {
		lost("high bits of owner %d:%d", uid, gid)
	}
	mtime, _ := m.header.mtime()
	if mtime > maxMtime {
		lost("high bits of its time, which is %d", int64(mtime))
	}
	if len(x.parts) > 0 && len(x.parts[len(x.parts)-1]) > maxLinuxName {
		lost("the whole entry, whose name is longer than Linux allows: %d bytes", len(x.parts[len(x.parts)-1]))
	}
	if m.header.typeflag() == '2' && len(m.link) > maxLinuxPath {
		lost("its target, which is longer than Linux allows: %d bytes", len(m.link))
	}
	for key, value := range paxRecords(m.pax) {
		if what := paxLoss(m, string(key), value); what != "" {
			lost("%s", what)
		}
	}
}

// paxLoss says what of a record of an extended header is lost, if anything is.
func paxLoss(m *member, key string, value []byte) string {
	header := func(read func() (uint64, error)) uint64 {
		n, _ := read()
		return n
	}
	for _, prefix := range []string{"SCHILY.xattr.", "LIBARCHIVE.xattr."} {
		if name, ok := bytes.CutPrefix([]byte(key), []byte(prefix)); ok {
			return fmt.Sprintf("extended attribute %q", name)
		}
	}
	differs := func(is uint64) bool {
		n, err := strconv.ParseUint(string(value), 10, 64)
		return err != nil || n != is
	}
	switch {
	case key == "SCHILY.fflags":
		return fmt.Sprintf("file flags %q", value)
	case len(key) > 11 && key[:11] == "SCHILY.acl.":
		return "access control list"
	case len(key) > 11 && key[:11] == "GNU.sparse.":
		return fmt.Sprintf("%s %.100q: the file has its condensed form as content", key, value)
	case key == "uid" && differs(header(m.header.uid)), key == "gid" && differs(header(m.header.gid)):
		return fmt.Sprintf("%s %.40q of the extended header: the header's counts", key, value)
	case key == "size" && differs(m.size):
		return fmt.Sprintf("size %.40q of the extended header: the header's counts", value)
	case key == "mtime":
		return paxTimeLoss(value, header(m.header.mtime))
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
// long as it says, until one is malformed.
func paxRecords(b []byte) func(yield func(key, value []byte) bool) {
	return func(yield func(key, value []byte) bool) {
		for len(b) > 0 {
			length, _, ok := bytes.Cut(b, []byte{' '})
			n, err := strconv.Atoi(string(length))
			if !ok || err != nil || n <= len(length)+1 || n > len(b) {
				return
			}
			key, value, ok := bytes.Cut(b[len(length)+1:n-1], []byte{'='})
			if !ok || !yield(key, value) {
				return
			}
			b = b[n:]
		}
	}
}
