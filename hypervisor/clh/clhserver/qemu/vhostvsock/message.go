package vhostvsock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// The messages of vhost-user that QEMU sends to a back-end of these features.
// Source: QEMU docs/interop/vhost-user.rst.
const (
	getFeatures         = 1
	setFeatures         = 2
	setOwner            = 3
	resetOwner          = 4
	setMemTable         = 5
	setVringNum         = 8
	setVringAddr        = 9
	setVringBase        = 10
	getVringBase        = 11
	setVringKick        = 12
	setVringCall        = 13
	setVringErr         = 14
	getProtocolFeatures = 15
	setProtocolFeatures = 16
	getQueueNum         = 17
	setVringEnable      = 18
	getConfig           = 24
	getMaxMemSlots      = 36
	addMemReg           = 37
	remMemReg           = 38
)

const (
	headerSize = 12
	maxPayload = 4096
	maxFiles   = 8

	flagVersion   = 0x1
	flagsVersion  = 0x3 // the bits of the version
	flagReply     = 0x4
	flagNeedReply = 0x8
)

// message is one vhost-user message.
type message struct {
	request   uint32
	needReply bool
	payload   []byte
	files     []*os.File
}

// parseHeader reads a message's header and gives the size of its payload.
func parseHeader(b [headerSize]byte) (m message, size int, err error) {
	flags := binary.LittleEndian.Uint32(b[4:])
	n := binary.LittleEndian.Uint32(b[8:])
	switch {
	case flags&flagsVersion != flagVersion:
		return m, 0, fmt.Errorf("vhost-user: message of version %d, want %d", flags&flagsVersion, flagVersion)
	case flags&flagReply != 0:
		return m, 0, errors.New("vhost-user: a reply that nobody asked for")
	case n > maxPayload:
		return m, 0, fmt.Errorf("vhost-user: message of %d bytes, at most %d are possible", n, maxPayload)
	}
	return message{request: binary.LittleEndian.Uint32(b[:]), needReply: flags&flagNeedReply != 0}, int(n), nil
}

// receive reads one message; its files are the caller's to close, also those
// that come with an error.
func receive(conn *net.UnixConn) (m message, err error) {
	var header [headerSize]byte
	rights := make([]byte, unix.CmsgSpace(4*maxFiles))
	n, rn, flags, _, err := conn.ReadMsgUnix(header[:], rights)
	if err != nil {
		return m, err
	}
	files, err := takeFiles(rights[:rn])
	if err == nil && flags&unix.MSG_CTRUNC != 0 {
		err = fmt.Errorf("vhost-user: more than %d descriptors", maxFiles)
	}
	if err == nil && n < headerSize {
		if n == 0 {
			return m, io.EOF
		}
		_, err = io.ReadFull(conn, header[n:])
	}
	var size int
	if err == nil {
		m, size, err = parseHeader(header)
	}
	m.files = files
	if err == nil && size > 0 {
		m.payload = make([]byte, size)
		_, err = io.ReadFull(conn, m.payload)
	}
	return m, err
}

func takeFiles(rights []byte) (files []*os.File, err error) {
	if len(rights) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, fmt.Errorf("vhost-user: control message: %w", err)
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return files, fmt.Errorf("vhost-user: control message: %w", err)
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			// Eventfds are waited for by the runtime's poller; memory does not mind.
			err = errors.Join(err, unix.SetNonblock(fd, true))
			files = append(files, os.NewFile(uintptr(fd), "vhost-user"))
		}
		if err != nil {
			return files, fmt.Errorf("vhost-user: descriptor: %w", err)
		}
	}
	return files, nil
}

// reply answers request.
func reply(conn *net.UnixConn, request uint32, payload []byte) error {
	b := make([]byte, headerSize, headerSize+len(payload))
	binary.LittleEndian.PutUint32(b, request)
	binary.LittleEndian.PutUint32(b[4:], flagVersion|flagReply)
	binary.LittleEndian.PutUint32(b[8:], uint32(len(payload)))
	_, err := conn.Write(append(b, payload...))
	return err
}

// fields reads the little-endian numbers of a payload in their order.
type fields struct {
	rest []byte
	bad  bool // there were not enough
}

func (f *fields) u32() uint32 {
	if len(f.rest) < 4 {
		f.bad, f.rest = true, nil
		return 0
	}
	v := binary.LittleEndian.Uint32(f.rest)
	f.rest = f.rest[4:]
	return v
}

func (f *fields) u64() uint64 {
	if len(f.rest) < 8 {
		f.bad, f.rest = true, nil
		return 0
	}
	v := binary.LittleEndian.Uint64(f.rest)
	f.rest = f.rest[8:]
	return v
}
