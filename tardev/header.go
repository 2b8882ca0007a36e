package tardev

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

const (
	tarBlock = 512
	// linkField is where the link name stands in a tar header.
	linkField = 157
)

// header is a tar header block. Its fields are read as the original's tar reader,
// the Rust crate tar 0.4.38, reads them, since the index must come out the same.
type header [tarBlock]byte

func (h *header) typeflag() byte { return h[156] }

func (h *header) isUSTAR() bool { return string(h[257:265]) == "ustar\x0000" }
func (h *header) isGNU() bool   { return string(h[257:265]) == "ustar  \x00" }
func (h *header) isZero() bool  { return *h == header{} }

// appendPath appends the path without long names: the prefix counts in USTAR only.
func (h *header) appendPath(b []byte) []byte {
	if prefix := truncate(h[345:500]); h.isUSTAR() && len(prefix) > 0 {
		b = append(append(b, prefix...), '/')
	}
	return append(b, truncate(h[0:100])...)
}

func (h *header) link() []byte { return truncate(h[linkField : linkField+100]) }

// mode, unlike the other numbers, is octal and never base-256.
func (h *header) mode() (uint64, error)  { return octal(h[100:108]) }
func (h *header) uid() (uint64, error)   { return number(h[108:116]) }
func (h *header) gid() (uint64, error)   { return number(h[116:124]) }
func (h *header) size() (uint64, error)  { return number(h[124:136]) }
func (h *header) mtime() (uint64, error) { return number(h[136:148]) }

// device returns the numbers of a device; old headers have none.
func (h *header) device() (major, minor uint32, err error) {
	if !h.isUSTAR() && !h.isGNU() {
		return 0, 0, errors.New("header has no device numbers")
	}
	a, err := octal(h[329:337])
	if err != nil {
		return 0, 0, err
	}
	b, err := octal(h[337:345])
	return uint32(a), uint32(b), err
}

// checkSum compares the sum of the header's bytes, its own field as spaces.
func (h *header) checkSum() error {
	want, err := octal(h[148:156])
	if err != nil {
		return fmt.Errorf("checksum: %w", err)
	}
	sum := uint32(8 * ' ')
	for i, b := range h {
		if i < 148 || i >= 156 {
			sum += uint32(b)
		}
	}
	if sum != uint32(want) {
		return fmt.Errorf("checksum is %d, not %d", sum, want)
	}
	return nil
}

// truncate ends a field at its first NUL.
func truncate(field []byte) []byte {
	if i := bytes.IndexByte(field, 0); i >= 0 {
		return field[:i]
	}
	return field
}

// number reads an octal field or, if its first bit is set, a base-256 one, of
// which the last eight bytes count.
func number(field []byte) (uint64, error) {
	if field[0]&0x80 == 0 {
		return octal(field)
	}
	var n uint64
	if len(field) == 8 {
		n = uint64(field[0] & 0x7f)
	}
	for _, b := range field[max(1, len(field)-8):] {
		n = n<<8 | uint64(b)
	}
	return n, nil
}

func octal(field []byte) (uint64, error) {
	text := strings.TrimSpace(string(truncate(field)))
	n, err := strconv.ParseUint(strings.TrimPrefix(text, "+"), 8, 64)
	if err != nil {
		return 0, fmt.Errorf("field %q is not octal", field)
	}
	return n, nil
}

// paxValue returns the first value of a key in the records of an extended header
// as the original finds it: records are lines, and a value that has a line break
// in it makes its record, and what that tears off, malformed. Malformed lines are
// skipped, and an empty one ends the search.
func paxValue(records []byte, key string) (value []byte, ok bool) {
	for line := range bytes.SplitSeq(records, []byte{'\n'}) {
		if len(line) == 0 {
			return nil, false
		}
		if k, v, ok := paxLine(line); ok && string(k) == key {
			return v, true
		}
	}
	return nil, false
}

// paxSize returns the size of an extended header, for which, unlike the others,
// the search ends at a malformed line.
func paxSize(records []byte) (size uint64, ok bool) {
	for line := range bytes.SplitSeq(records, []byte{'\n'}) {
		k, v, ok := paxLine(line)
		if !ok {
			return 0, false
		}
		if string(k) == "size" {
			if n, err := parseDecimal(string(v)); err == nil {
				return n, true
			}
			return 0, false
		}
	}
	return 0, false
}

// paxLine splits "<length> <key>=<value>", the line break being counted.
func paxLine(line []byte) (key, value []byte, ok bool) {
	length, rest, ok := bytes.Cut(line, []byte{' '})
	if !ok {
		return nil, nil, false
	}
	if n, err := parseDecimal(string(length)); err != nil || n != uint64(len(line))+1 {
		return nil, nil, false
	}
	return bytes.Cut(rest, []byte{'='})
}

// parseDecimal accepts what Rust's u64 parser accepts: digits after at most one plus.
func parseDecimal(s string) (uint64, error) {
	return strconv.ParseUint(strings.TrimPrefix(s, "+"), 10, 64)
}
