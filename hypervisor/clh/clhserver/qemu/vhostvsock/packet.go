package vhostvsock

import (
	"encoding/binary"
	"fmt"
)

// packet is the header of a virtio-vsock packet. Source: Virtual I/O Device
// (VIRTIO) 1.2, 5.10.6.
type packet struct {
	srcCID, dstCID   uint64
	srcPort, dstPort uint32
	length           uint32
	kind             uint16
	op               uint16
	flags            uint32
	bufAlloc         uint32 // the sender's receive buffer
	fwdCnt           uint32 // what the sender's user has read of it, ever
}

const packetSize = 44

const kindStream = 1

const (
	opRequest       = 1
	opResponse      = 2
	opReset         = 3
	opShutdown      = 4
	opData          = 5
	opCreditUpdate  = 6
	opCreditRequest = 7
)

// The flags of opShutdown: what its sender will not do any more.
const (
	noReceive = 1
	noSend    = 2
)

// maxData is the most that one packet may carry. Source: Linux
// VIRTIO_VSOCK_MAX_PKT_BUF_SIZE.
const maxData = 64 << 10

func parsePacket(b []byte) (packet, error) {
	if len(b) < packetSize {
		return packet{}, fmt.Errorf("packet of %d bytes, want %d", len(b), packetSize)
	}
	p := packet{
		srcCID:   binary.LittleEndian.Uint64(b[0:]),
		dstCID:   binary.LittleEndian.Uint64(b[8:]),
		srcPort:  binary.LittleEndian.Uint32(b[16:]),
		dstPort:  binary.LittleEndian.Uint32(b[20:]),
		length:   binary.LittleEndian.Uint32(b[24:]),
		kind:     binary.LittleEndian.Uint16(b[28:]),
		op:       binary.LittleEndian.Uint16(b[30:]),
		flags:    binary.LittleEndian.Uint32(b[32:]),
		bufAlloc: binary.LittleEndian.Uint32(b[36:]),
		fwdCnt:   binary.LittleEndian.Uint32(b[40:]),
	}
	if p.length > maxData {
		return packet{}, fmt.Errorf("packet with %d bytes of data, at most %d are possible", p.length, maxData)
	}
	return p, nil
}

func (p packet) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, p.srcCID)
	b = binary.LittleEndian.AppendUint64(b, p.dstCID)
	b = binary.LittleEndian.AppendUint32(b, p.srcPort)
	b = binary.LittleEndian.AppendUint32(b, p.dstPort)
	b = binary.LittleEndian.AppendUint32(b, p.length)
	b = binary.LittleEndian.AppendUint16(b, p.kind)
	b = binary.LittleEndian.AppendUint16(b, p.op)
	b = binary.LittleEndian.AppendUint32(b, p.flags)
	b = binary.LittleEndian.AppendUint32(b, p.bufAlloc)
	return binary.LittleEndian.AppendUint32(b, p.fwdCnt)
}
