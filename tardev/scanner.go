package tardev

import (
	"errors"
	"fmt"
)

// maxDescription bounds a long name, a long link or an extended header, in bytes.
const maxDescription = 1 << 20

// ErrTar says that the tar cannot be read as one.
var ErrTar = errors.New("bad tar")

// member is one entry of a tar with its long names and extended header applied.
type member struct {
	header    *header
	headerPos uint64 // offset in the tar
	dataPos   uint64
	size      uint64
	path      []byte
	link      []byte // nil if there is none
	pax       []byte // records of the extended header
	// gnuPath and gnuLink are what a long name and a long link said, if anything.
	gnuPath, gnuLink []byte
}

// scanner takes a tar as it streams by and calls found for each member, which is
// good until found returns. Members that describe the next one (GNU long name and
// link, extended header) do not show; global extended headers do, as members of
// their type.
type scanner struct {
	found func(*member) error

	pos    uint64 // of the next byte
	block  header // being gathered,
	have   int    // of which these bytes are there
	skip   uint64 // bytes to pass over
	sparse bool   // the block is an extension of a sparse header
	after  uint64 // bytes to pass over after the extensions of a sparse header
	ended  bool   // a block of zeros was seen: what follows is no tar

	gather   uint64       // bytes of a description still to come, then
	padding  uint64       // its padding,
	describe *description // all for one of these:
	longName description
	longLink description
	pax      description
	paxSize  uint64 // 0 for none

	current  member
	path     []byte // scratch
	last     []byte // path of the member that pos is in
	announce bool   // that member is a description
}

// description is what a member says of the next one. Its memory is used again.
type description struct {
	text []byte
	set  bool
}

// Write takes the next bytes of the tar.
func (s *scanner) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 && !s.ended {
		var took int
		switch {
		case s.gather > 0:
			took = int(min(uint64(len(p)), s.gather))
			s.describe.text = append(s.describe.text, p[:took]...)
			if s.gather -= uint64(took); s.gather == 0 {
				s.skip = s.padding
				s.described()
			}
		case s.skip > 0:
			took = int(min(uint64(len(p)), s.skip))
			s.skip -= uint64(took)
		default:
			took = copy(s.block[s.have:], p)
			s.have += took
		}
		s.pos += uint64(took)
		p = p[took:]
		if s.have == tarBlock {
			s.have = 0
			if err := s.next(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

// Close says that the tar has ended, which it may at the end of a member.
func (s *scanner) Close() error {
	switch {
	case s.ended:
		return nil
	case s.have > 0 && s.last == nil:
		return fmt.Errorf("%w: ends at %d within its first header", ErrTar, s.pos)
	case s.have > 0:
		return fmt.Errorf("%w: ends at %d within a header, after %s", ErrTar, s.pos, s.whose())
	case s.skip > 0 || s.gather > 0 || s.sparse:
		return fmt.Errorf("%w: ends at %d within %s", ErrTar, s.pos, s.whose())
	case s.announced():
		return fmt.Errorf("%w: ends at %d before the member that a long name or extended header describes", ErrTar, s.pos)
	}
	return nil
}

// whose names the member that pos is in.
func (s *scanner) whose() string {
	switch {
	case s.last == nil:
		return "its beginning"
	case s.announce:
		return fmt.Sprintf("the long name or extended header %.200q", s.last)
	}
	return fmt.Sprintf("member %.200q", s.last)
}

// announced says whether a description waits for its member.
func (s *scanner) announced() bool {
	return s.longName.set || s.longLink.set || s.pax.set
}

// next takes a whole block where a header is due.
func (s *scanner) next() error {
	if s.sparse {
		s.extension(s.block[504])
		return nil
	}
	h := &s.block
	if h.isZero() {
		if s.announced() {
			return fmt.Errorf("%w: end of the tar at %d where a long name or extended header announces a member", ErrTar, s.pos-tarBlock)
		}
		s.ended = true
		return nil
	}
	size, padded, err := s.sizes()
	if err == nil {
		switch h.typeflag() {
		case 'L', 'K', 'x':
			if h.isUSTAR() || h.isGNU() {
				if err = s.description(size, padded); err == nil {
					return nil
				}
			}
		}
	}
	if err != nil {
		s.path = h.appendPath(s.path[:0])
		return fmt.Errorf("%w: header %.200q at %d: %w", ErrTar, s.path, s.pos-tarBlock, err)
	}
	s.member(size)
	s.longName.set, s.longLink.set, s.pax.set, s.paxSize = false, false, false, 0
	s.skip = padded
	if h.typeflag() == 'S' && h.isGNU() {
		s.sparse, s.after = true, padded
		s.extension(h[482])
	}
	if err := s.found(&s.current); err != nil {
		return fmt.Errorf("member %.200q at %d of the tar: %w", s.current.path, s.current.headerPos, err)
	}
	return nil
}

// sizes checks the header and returns how many bytes the member has, without and
// with padding.
func (s *scanner) sizes() (size, padded uint64, err error) {
	if err = s.block.checkSum(); err != nil {
		return 0, 0, err
	}
	if size, err = s.block.size(); err != nil {
		return 0, 0, fmt.Errorf("size: %w", err)
	}
	if size == 0 {
		size = s.paxSize // a size in the header goes before the extended header's
	}
	padded = (size + tarBlock - 1) &^ (tarBlock - 1)
	if padded < size || s.pos+padded < padded {
		return 0, 0, fmt.Errorf("size %d is more than a tar can hold", size)
	}
	return size, padded, nil
}

// extension looks whether a sparse header goes on in another block, and passes
// over the file's data once it does not.
func (s *scanner) extension(more byte) {
	if s.skip = 0; more != 1 {
		s.sparse, s.skip = false, s.after
	}
}

// description begins to gather what describes the next member.
func (s *scanner) description(size, padded uint64) error {
	into := map[byte]*description{'L': &s.longName, 'K': &s.longLink, 'x': &s.pax}[s.block.typeflag()]
	if into.set {
		return fmt.Errorf("second entry of type %q for one member", s.block.typeflag())
	}
	if size > maxDescription {
		return fmt.Errorf("entry of type %q has %d bytes; %d are allowed", s.block.typeflag(), size, maxDescription)
	}
	into.set, into.text = true, into.text[:0]
	s.describe, s.gather, s.padding = into, size, padded-size
	s.last, s.announce = s.block.appendPath(s.last[:0]), true
	if size == 0 {
		s.described()
	}
	return nil
}

// described takes note of a description that is complete.
func (s *scanner) described() {
	if s.describe == &s.pax {
		s.paxSize, _ = paxSize(s.pax.text)
	}
}

// member applies to a header what was said before it. A GNU long name goes before
// a path of the extended header, and that before the header's.
func (s *scanner) member(size uint64) {
	h := &s.block
	m := member{header: h, headerPos: s.pos - tarBlock, dataPos: s.pos, size: size}
	var ok bool
	if s.pax.set {
		m.pax = s.pax.text
	}
	if s.longName.set {
		m.gnuPath = s.longName.text
		m.path = trimNUL(m.gnuPath)
	} else if m.path, ok = paxValue(m.pax, "path"); !ok {
		s.path = h.appendPath(s.path[:0])
		m.path = s.path
	}
	if s.longLink.set {
		m.gnuLink = s.longLink.text
		m.link = trimNUL(m.gnuLink)
	} else if m.link, ok = paxValue(m.pax, "linkpath"); !ok && h[linkField] != 0 {
		m.link = h.link()
	}
	s.last, s.announce = append(s.last[:0], m.path...), false
	s.current = m
}

// trimNUL drops the NUL that ends a GNU long name.
func trimNUL(b []byte) []byte {
	if n := len(b); n > 0 && b[n-1] == 0 {
		return b[:n-1]
	}
	return b
}
