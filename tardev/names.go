package tardev

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"

	"github.com/kata-cc/kata-cc/internal/spill"
)

const (
	nameChunk = 64 << 10
	// shortName is the length in bytes up to which a name always stays in memory.
	shortName = 64
	// keepNames is how many bytes of longer names stay in memory, and how many of
	// the targets of symbolic links.
	keepNames = 4 << 20
	// nameWindow is how many bytes of a long name are looked at at once.
	nameWindow = 4096
)

// name says where names has a name: how long it is in the low 24 bits, in the top
// bit whether it is a long one, and between them its position. It has no
// alignment, for the sake of the struct that it is in.
type name [2]uint32

const (
	nameLengthBits = 24
	longNameBit    = 1 << 63
	maxNames       = 1 << (63 - nameLengthBits) // bytes of short or of long names
)

func (n name) bits() uint64 { return uint64(n[0])<<32 | uint64(n[1]) }
func (n name) length() int  { return int(n[1] & (1<<nameLengthBits - 1)) }
func (n name) long() bool   { return n.bits()&longNameBit != 0 }
func (n name) at() int64    { return int64(n.bits() &^ longNameBit >> nameLengthBits) }

// names holds the names of an index. What a layer's author can make long is kept
// in a file.
type names struct {
	short [][]byte // chunks
	long  *spill.Buffer
	err   error // the first of the file; names are of no use any more
	a, b  [nameWindow]byte
}

func newNames(tempDir string) names {
	return names{long: spill.New(tempDir, keepNames)}
}

func (s *names) fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

// add keeps a name of less than 16 MiB.
func (s *names) add(p []byte) name {
	var at, flag uint64
	if len(p) > shortName {
		at, flag = uint64(s.long.Len()), longNameBit
		if _, err := s.long.Write(p); err != nil {
			s.fail(err)
		}
	} else {
		last := len(s.short) - 1
		if last < 0 || len(s.short[last])+len(p) > nameChunk {
			s.short = append(s.short, make([]byte, 0, nameChunk))
			last++
		}
		at = uint64(last*nameChunk + len(s.short[last]))
		s.short[last] = append(s.short[last], p...)
	}
	if at >= maxNames {
		s.fail(errors.New("names are too many for an index"))
	}
	bits := flag | at<<nameLengthBits | uint64(len(p))
	return name{uint32(bits >> 32), uint32(bits)}
}

// window returns some bytes of a name from off on: all that are left of a short
// one, at most nameWindow of a long one. They are good until the next use of buf.
func (s *names) window(n name, off int, buf *[nameWindow]byte) []byte {
	if !n.long() {
		at := int(n.at())
		return s.short[at/nameChunk][at%nameChunk:][off:n.length()]
	}
	p := buf[:min(nameWindow, n.length()-off)]
	if _, err := s.long.ReadAt(p, n.at()+int64(off)); err != nil {
		s.fail(fmt.Errorf("read name: %w", err))
		clear(p)
	}
	return p
}

// is says whether a name is these bytes.
func (s *names) is(n name, p []byte) bool {
	if n.length() != len(p) {
		return false
	}
	for off := 0; off < len(p); {
		w := s.window(n, off, &s.a)
		if !bytes.Equal(w, p[off:off+len(w)]) {
			return false
		}
		off += len(w)
	}
	return true
}

// compare orders names by their bytes.
func (s *names) compare(a, b name) int {
	for off := 0; ; {
		left, right := min(nameWindow, a.length()-off), min(nameWindow, b.length()-off)
		if left == 0 || right == 0 {
			return cmp.Compare(left, right)
		}
		n := min(left, right)
		if c := bytes.Compare(s.window(a, off, &s.a)[:n], s.window(b, off, &s.b)[:n]); c != 0 {
			return c
		}
		off += n
	}
}

// writeTo writes a name to w.
func (s *names) writeTo(w io.Writer, n name) {
	for off := 0; off < n.length(); {
		p := s.window(n, off, &s.a)
		_, _ = w.Write(p) // a bufio.Writer, which keeps its error
		off += len(p)
	}
}

// appendTo appends a name to b.
func (s *names) appendTo(b []byte, n name) []byte {
	for off := 0; off < n.length(); {
		p := s.window(n, off, &s.a)
		b = append(b, p...)
		off += len(p)
	}
	return b
}
