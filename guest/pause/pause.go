// Package pause is the smallest program that can be process 1 of a pid
// namespace: it closes its files, leaves its children to the kernel, which then
// reaps the orphans of the namespace, and sleeps. It takes two pages of memory,
// where one with a language's runtime takes hundreds.
package pause

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"runtime"

	"github.com/containerd/errdefs"
)

// Name is what the program is called among a pod's processes.
const Name = "pause"

// Syscalls are all that the program calls after its start.
var Syscalls = []string{"close_range", "rt_sigaction", "pause"}

const (
	base    = 0x400000 // where the file is in memory, whole
	headers = 64 + 56  // of the file and of its one segment; the program follows
)

// code is the program. The address of action is put in at actionAt.
var code = []byte{
	0x31, 0xff, //                         xor  edi, edi           close_range(0, ~0, 0)
	0xbe, 0xff, 0xff, 0xff, 0xff, //       mov  esi, 0xffffffff
	0x31, 0xd2, //                         xor  edx, edx
	0xb8, 0xb4, 0x01, 0x00, 0x00, //       mov  eax, 436
	0x0f, 0x05, //                         syscall
	0xbf, 0x11, 0x00, 0x00, 0x00, //       mov  edi, SIGCHLD       rt_sigaction(SIGCHLD, &action, 0, 8)
	0xbe, 0x00, 0x00, 0x00, 0x00, //       mov  esi, action
	0x31, 0xd2, //                         xor  edx, edx
	0x41, 0xba, 0x08, 0x00, 0x00, 0x00, // mov  r10d, 8
	0xb8, 0x0d, 0x00, 0x00, 0x00, //       mov  eax, 13
	0x0f, 0x05, //                         syscall
	0xb8, 0x22, 0x00, 0x00, 0x00, //       mov  eax, 34      again: pause()
	0x0f, 0x05, //                         syscall
	0xeb, 0xf7, //                         jmp  again
}

const actionAt = 22

// action is the kernel's struct sigaction.
type action struct{ Handler, Flags, Restorer, Mask uint64 }

// ignore is SIG_IGN. Who ignores SIGCHLD leaves no dead children to wait for.
const ignore = 1

// Program is the program as an executable file for this machine.
func Program() ([]byte, error) {
	if runtime.GOARCH != "amd64" {
		return nil, fmt.Errorf("there is no %s program for %s: %w", Name, runtime.GOARCH, errdefs.ErrNotImplemented)
	}
	text := bytes.Clone(code)
	binary.LittleEndian.PutUint32(text[actionAt:], uint32(base+headers+len(text)))
	size := uint64(headers + len(text) + binary.Size(action{}))
	var file bytes.Buffer
	for _, part := range []any{
		elf.Header64{
			Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
			Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
			Entry: base + headers, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
		},
		elf.Prog64{
			Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: base, Paddr: base,
			Filesz: size, Memsz: size, Align: 0x1000,
		},
		text, action{Handler: ignore},
	} {
		if err := binary.Write(&file, binary.LittleEndian, part); err != nil {
			return nil, err
		}
	}
	return file.Bytes(), nil
}
