package tardev

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// losses reports what a member has and the format cannot hold.
func (x *index) losses(m *member, mode, uid, gid uint64) {
	path := string(m.path)
	for _, bit := range []struct {
		mask uint64
		name string
	}{{0o4000, "setuid"}, {0o2000, "setgid"}, {0o1000, "sticky bit"}} {
		if mode&bit.mask != 0 {
			x.lost(path, bit.name)
		}
	}
	if uid > math.MaxUint32 || gid > math.MaxUint32 {
		x.lost(path, fmt.Sprintf("high bits of owner %d:%d", uid, gid))
	}
	for key, value := range paxRecords(m.pax) {
		switch {
		case strings.HasPrefix(key, "SCHILY.xattr."):
			x.lost(path, "extended attribute "+strings.TrimPrefix(key, "SCHILY.xattr."))
		case strings.HasPrefix(key, "LIBARCHIVE.xattr."):
			x.lost(path, "extended attribute "+strings.TrimPrefix(key, "LIBARCHIVE.xattr."))
		case strings.HasPrefix(key, "SCHILY.acl."):
			x.lost(path, "access control list")
		case key == "uid" || key == "gid":
			x.lost(path, key+" "+value+" of the extended header")
		case key == "mtime" && strings.Contains(value, "."):
			x.lost(path, "fraction of the second of its time")
		}
	}
}

// paxRecords yields the records of an extended header as POSIX has them, each as
// long as it says, until one is malformed.
func paxRecords(b []byte) func(yield func(key, value string) bool) {
	return func(yield func(key, value string) bool) {
		for len(b) > 0 {
			length, _, ok := bytes.Cut(b, []byte{' '})
			n, err := strconv.Atoi(string(length))
			if !ok || err != nil || n <= len(length)+1 || n > len(b) {
				return
			}
			key, value, ok := strings.Cut(string(b[len(length)+1:n-1]), "=")
			if !ok || !yield(key, value) {
				return
			}
			b = b[n:]
		}
	}
}
