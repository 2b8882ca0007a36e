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
}

// scanner takes a tar as it streams by and calls found for each member. Members
// that describe the next one (GNU long name and link, extended header) do not
// show; global extended headers do, as members of their type.
type scanner struct {
	found func(*member) error

	pos    uint64 // of the next byte
	block  header // being gathered,
	have   int    // of which these bytes are there
	skip   uint64 // bytes to pass over
	sparse bool   // the block is an extension of a sparse header
	after  uint64 // bytes to pass over after the extensions of a sparse header
	ended  bool   // a block of zeros was seen: what follows is no tar

	gather   uint64  // bytes of a description still to come, then
	padding  uint64  // its padding,
	describe *[]byte // all for one of these:
	longName []byte
	longLink []byte
	pax      []byte
	paxSize  uint64 // 0 for none
}

// Write takes the next bytes of the tar.
func (s *scanner) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 && !s.ended {
		var took int
		switch {
		case s.gather > 0:
			took = int(min(uint64(len(p)), s.gather))
			*s.describe = append(*s.describe, p[:took]...)
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
				return 0, fmt.Errorf("%w: header at %d: %w", ErrTar, s.pos-tarBlock, err)
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
	case s.have > 0 || s.skip > 0 || s.gather > 0 || s.sparse:
		return fmt.Errorf("%w: ends at %d within a member", ErrTar, s.pos)
	case s.longName != nil || s.longLink != nil || s.pax != nil:
		return fmt.Errorf("%w: ends at %d before the member that a long name or extended header describes", ErrTar, s.pos)
	}
	return nil
}

// next takes a whole block where a header is due.
func (s *scanner) next() error {
	if s.sparse {
		s.extension(s.block[504])
		return nil
	}
	h := s.block // what found is given, to keep
	if h.isZero() {
		if s.longName != nil || s.longLink != nil || s.pax != nil {
			return errors.New("end of the tar where a long name or extended header announces a member")
		}
		s.ended = true
		return nil
	}
	if err := h.checkSum(); err != nil {
		return err
	}
	size, err := h.size()
	if err != nil {
		return fmt.Errorf("size: %w", err)
	}
	if size == 0 {
		size = s.paxSize // a size in the header goes before the extended header's
	}
	padded := (size + tarBlock - 1) &^ (tarBlock - 1)
	if padded < size || s.pos+padded < padded {
		return fmt.Errorf("size %d is more than a tar can hold", size)
	}
	if h.isUSTAR() || h.isGNU() {
		switch h.typeflag() {
		case 'L':
			return s.description(&s.longName, size, padded)
		case 'K':
			return s.description(&s.longLink, size, padded)
		case 'x':
			return s.description(&s.pax, size, padded)
		}
	}
	m := s.member(&h, size)
	s.longName, s.longLink, s.pax, s.paxSize = nil, nil, nil, 0
	s.skip = padded
	if h.typeflag() == 'S' && h.isGNU() {
		s.sparse, s.after = true, padded
		s.extension(h[482])
	}
	return s.found(m)
}

// extension looks whether a sparse header goes on in another block, and passes
// over the file's data once it does not.
func (s *scanner) extension(more byte) {
	if s.skip = 0; more != 1 {
		s.sparse, s.skip = false, s.after
	}
}

// description begins to gather what describes the next member.
func (s *scanner) description(into *[]byte, size, padded uint64) error {
	if *into != nil {
		return fmt.Errorf("second entry of type %q for one member", s.block.typeflag())
	}
	if size > maxDescription {
		return fmt.Errorf("entry of type %q has %d bytes; %d are allowed", s.block.typeflag(), size, maxDescription)
	}
	*into = make([]byte, 0, size)
	s.describe, s.gather, s.padding = into, size, padded-size
	if size == 0 {
		s.described()
	}
	return nil
}

// described takes note of a description that is complete.
func (s *scanner) described() {
	if s.describe == &s.pax {
		s.paxSize, _ = paxSize(s.pax)
	}
}

// member applies to a header what was said before it. A GNU long name goes before
// a path of the extended header, and that before the header's.
func (s *scanner) member(h *header, size uint64) *member {
	m := &member{header: h, headerPos: s.pos - tarBlock, dataPos: s.pos, size: size, pax: s.pax}
	var ok bool
	if s.longName != nil {
		m.path = trimNUL(s.longName)
	} else if m.path, ok = paxValue(s.pax, "path"); !ok {
		m.path = h.path()
	}
	if s.longLink != nil {
		m.link = trimNUL(s.longLink)
	} else if m.link, ok = paxValue(s.pax, "linkpath"); !ok && h[linkField] != 0 {
		m.link = h.link()
	}
	return m
}

// trimNUL drops the NUL that ends a GNU long name.
func trimNUL(b []byte) []byte {
	if n := len(b); n > 0 && b[n-1] == 0 {
		return b[:n-1]
	}
	return b
}
