package portforward

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Where the fields of struct bpf_sk_lookup (linux/bpf.h) are, in bytes.
const (
	lookupProtocol = 12
	lookupIfindex  = 64
)

// loopback is the index of "lo" in every network namespace.
const loopback = 1

// steering is a program of the kernel that chooses the socket for connections.
type steering struct {
	sockets *ebpf.Map
	program *ebpf.Program
	link    link.Link
}

// steer hands every TCP connection from the network namespace at path to itself
// to a listener, which must be in that namespace.
func steer(path string, l net.Listener) (_ io.Closer, err error) {
	s := &steering{}
	defer func() {
		if err != nil {
			_ = s.Close()
		}
	}()
	if s.sockets, err = ebpf.NewMap(&ebpf.MapSpec{Name: "portforward", Type: ebpf.SockMap, KeySize: 4, ValueSize: 8, MaxEntries: 1}); err != nil {
		return nil, fmt.Errorf("make a map of sockets: %w", err)
	}
	if err = s.put(l.(syscall.Conn)); err != nil {
		return nil, err
	}
	if s.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "portforward", Type: ebpf.SkLookup, AttachType: ebpf.AttachSkLookup, License: "Apache-2.0", Instructions: choose(s.sockets.FD()),
	}); err != nil {
		return nil, fmt.Errorf("load the program that chooses a socket: %w", err)
	}
	ns, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	if s.link, err = link.AttachNetNs(int(ns.Fd()), s.program); err != nil {
		return nil, fmt.Errorf("attach the program that chooses a socket: %w", err)
	}
	return s, nil
}

// put enters the listener's socket in the map.
func (s *steering) put(l syscall.Conn) error {
	raw, err := l.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = s.sockets.Put(uint32(0), uint64(fd)) }); err != nil {
		return err
	}
	if failed != nil {
		return fmt.Errorf("enter the listener in the map of sockets: %w", failed)
	}
	return nil
}

// choose is the program: TCP over loopback goes to the socket in the map, all
// else where it went.
func choose(sockets int) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R2, asm.R6, lookupProtocol, asm.Word),
		asm.JNE.Imm(asm.R2, unix.IPPROTO_TCP, "pass"),
		asm.LoadMem(asm.R2, asm.R6, lookupIfindex, asm.Word),
		asm.JNE.Imm(asm.R2, loopback, "pass"),

		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, sockets),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "pass"),

		asm.Mov.Reg(asm.R7, asm.R0),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Reg(asm.R2, asm.R7),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnSkAssign.Call(),
		asm.Mov.Reg(asm.R1, asm.R7),
		asm.FnSkRelease.Call(),

		asm.Mov.Imm(asm.R0, 1).WithSymbol("pass"), // SK_PASS
		asm.Return(),
	}
}

// Close takes the program away; connections that were made stay.
func (s *steering) Close() error {
	var errs []error
	if s.link != nil {
		errs = append(errs, s.link.Close())
	}
	if s.program != nil {
		errs = append(errs, s.program.Close())
	}
	if s.sockets != nil {
		errs = append(errs, s.sockets.Close())
	}
	return errors.Join(errs...)
}
