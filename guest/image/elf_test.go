package image

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"testing"
)

// section is one section of an ELF file that a test makes.
type section struct {
	name string
	kind elf.SectionType
	link uint32
	data []byte
}

// segment is one program header with its content.
type segment struct {
	kind elf.ProgType
	data []byte
}

// makeELF writes a 64-bit x86 ELF file: header, program headers, contents,
// section headers.
func makeELF(t *testing.T, segments []segment, sections []section) []byte {
	t.Helper()
	sections = append([]section{{}}, sections...)
	names := section{name: ".shstrtab", kind: elf.SHT_STRTAB, data: []byte{0}}
	offsets := make([]uint32, len(sections)+1)
	for i, s := range append(sections, names) {
		if s.name != "" {
			offsets[i] = uint32(len(names.data))
			names.data = append(append(names.data, s.name...), 0)
		}
	}
	sections = append(sections, names)

	const headerSize, progSize, sectionSize = 64, 56, 64
	body := &bytes.Buffer{}
	at := func() uint64 { return uint64(headerSize + progSize*len(segments) + body.Len()) }
	var heads bytes.Buffer
	for _, s := range segments {
		put(t, &heads, elf.Prog64{Type: uint32(s.kind), Off: at(), Filesz: uint64(len(s.data)), Memsz: uint64(len(s.data))})
		body.Write(s.data)
	}
	var tail bytes.Buffer
	for i, s := range sections {
		put(t, &tail, elf.Section64{Name: offsets[i], Type: uint32(s.kind), Off: at(), Size: uint64(len(s.data)), Link: s.link})
		body.Write(s.data)
	}
	header := elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_DYN), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Ehsize: headerSize, Phentsize: progSize, Phnum: uint16(len(segments)), Phoff: headerSize,
		Shentsize: sectionSize, Shnum: uint16(len(sections)), Shoff: at(), Shstrndx: uint16(len(sections) - 1),
	}
	if len(segments) == 0 {
		header.Phoff = 0
	}
	out := &bytes.Buffer{}
	put(t, out, header)
	out.Write(heads.Bytes())
	out.Write(body.Bytes())
	out.Write(tail.Bytes())
	return out.Bytes()
}

func put(t *testing.T, b *bytes.Buffer, v any) {
	t.Helper()
	if err := binary.Write(b, binary.LittleEndian, v); err != nil {
		t.Fatal(err)
	}
}

// program is an ELF file that needs libraries and, unless it is one itself,
// names a dynamic linker.
func program(t *testing.T, linker string, needed ...string) []byte {
	t.Helper()
	strings := []byte{0}
	dynamic := &bytes.Buffer{}
	for _, n := range needed {
		put(t, dynamic, elf.Dyn64{Tag: int64(elf.DT_NEEDED), Val: uint64(len(strings))})
		strings = append(append(strings, n...), 0)
	}
	put(t, dynamic, elf.Dyn64{Tag: int64(elf.DT_NULL)})
	var segments []segment
	if linker != "" {
		segments = append(segments, segment{elf.PT_INTERP, append([]byte(linker), 0)})
	}
	return makeELF(t, segments, []section{
		{name: ".dynstr", kind: elf.SHT_STRTAB, data: strings},
		{name: ".dynamic", kind: elf.SHT_DYNAMIC, link: 1, data: dynamic.Bytes()},
	})
}

// kernelModule is an ELF file with a .modinfo section.
func kernelModule(t *testing.T, info ...string) []byte {
	t.Helper()
	var text []byte
	for _, line := range info {
		text = append(append(text, line...), 0)
	}
	return makeELF(t, nil, []section{{name: ".modinfo", kind: elf.SHT_PROGBITS, data: text}})
}
