package vhostvsock

import (
	"fmt"
	"sync"

	"github.com/kata-cc/kata-cc/internal/vsock"
)

// hostCID is the host's address, as every guest knows it.
const hostCID = 2

// maxControl bounds the packets that wait for room in the guest's ring: beyond
// it nothing is taken from the guest, whose packets bring most of them forth.
const maxControl = 1024

// work moves what can be moved through the rings, in both directions, and tells
// the guest. The device's mu is held.
func (d *Device) work() {
	if d.closed {
		return
	}
	for {
		sent, err := d.deliver()
		taken := 0
		if err == nil {
			taken, err = d.receive()
		}
		if err != nil {
			d.endLocked(fmt.Errorf("vsock device: the guest's ring: %w", err))
			return
		}
		if sent+taken == 0 {
			return
		}
	}
}

// receive takes what the guest has sent.
func (d *Device) receive() (taken int, err error) {
	r := &d.rings[tx]
	for r.available() && len(d.control) < maxControl {
		c, err := r.take(d.mem)
		if err != nil {
			return taken, err
		}
		if err := d.fromGuest(c.readable); err != nil {
			return taken, err
		}
		r.push(c, 0)
		taken++
	}
	if taken > 0 {
		r.notify()
	}
	return taken, nil
}

// deliver fills the buffers that the guest has made available: with control
// packets first, then with one packet of each stream in turn.
func (d *Device) deliver() (sent int, err error) {
	r := &d.rings[rx]
	for (len(d.control) > 0 || len(d.ready) > 0) && r.available() {
		var header packet
		var data []byte
		var from *stream
		if len(d.control) == 0 {
			from = d.ready[0]
			d.ready = d.ready[1:]
			from.queued = false
			if !from.sendable() {
				continue
			}
		}
		c, err := r.take(d.mem)
		if err != nil {
			return sent, err
		}
		room := length(c.writable) - packetSize
		if room < 0 || from != nil && room == 0 {
			return sent, fmt.Errorf("a buffer of %d bytes", room+packetSize)
		}
		if from == nil {
			header = d.control[0]
			d.control = d.control[1:]
			if header.op == opRequest {
				if s := d.streams[key{header.srcPort, header.dstPort}]; s != nil {
					d.asked(s)
				}
			}
		} else {
			header, data = from.nextData(d, room)
		}
		n := scatterPacket(c.writable, header, data)
		r.push(c, uint32(n))
		sent++
	}
	if sent > 0 {
		r.notify()
	}
	return sent, nil
}

// nextData takes the packet that s sends next, of at most room bytes.
func (s *stream) nextData(d *Device, room int) (packet, []byte) {
	n := min(room, len(s.pending), s.credit(), maxData)
	data := s.pending[:n]
	s.pending = s.pending[n:]
	s.sent += uint32(n)
	header := d.header(s, opData, 0)
	header.length = uint32(n)
	if len(s.pending) == 0 {
		s.wake.Broadcast()
	} else {
		d.schedule(s)
	}
	return header, data
}

func scatterPacket(buffers [][]byte, header packet, data []byte) int {
	b := header.append(make([]byte, 0, packetSize))
	n := scatter(buffers, b)
	for len(buffers) > 0 && len(b) >= len(buffers[0]) {
		b = b[len(buffers[0]):]
		buffers = buffers[1:]
	}
	if len(buffers) > 0 {
		rest := append([][]byte{buffers[0][len(b):]}, buffers[1:]...)
		n += scatter(rest, data)
	}
	return n
}

// schedule puts s in line if it has something that the guest has room for.
func (d *Device) schedule(s *stream) {
	if !s.queued && s.sendable() {
		s.queued = true
		d.ready = append(d.ready, s)
	}
}

// header is that of the next packet of s. It tells the guest what room there is.
func (d *Device) header(s *stream, op uint16, flags uint32) packet {
	s.told = s.written
	return packet{
		srcCID: hostCID, dstCID: d.options.CID, srcPort: s.host, dstPort: s.guest,
		kind: kindStream, op: op, flags: flags, bufAlloc: bufferSize, fwdCnt: s.written,
	}
}

// send puts a packet without data in line.
func (d *Device) send(s *stream, op uint16, flags uint32) {
	d.control = append(d.control, d.header(s, op, flags))
}

// drop takes s out of the table. Its socket is closed when what the guest has
// sent is written.
func (d *Device) drop(s *stream) {
	s.gone = true
	s.pending = nil
	if d.streams[s.key] == s {
		delete(d.streams, s.key)
	}
	if !s.isOpen && s.socket != nil {
		s.socket.Close()
	}
	s.wake.Broadcast()
}

// fromGuest acts on one packet of the guest's. Only a packet that cannot be
// understood at all is an error.
func (d *Device) fromGuest(buffers [][]byte) error {
	b := make([]byte, min(length(buffers), packetSize+maxData))
	gather(b, buffers)
	p, err := parsePacket(b)
	if err != nil {
		return err
	}
	data := b[packetSize:]
	if int(p.length) > len(data) {
		return fmt.Errorf("packet of %d bytes with %d in it", p.length, len(data))
	}
	data = data[:p.length]
	if p.srcCID != d.options.CID || p.dstCID != hostCID {
		return nil // there is nobody else
	}
	s := d.streams[key{host: p.dstPort, guest: p.srcPort}]
	switch {
	case p.op == opRequest && p.kind == kindStream:
		d.requested(p, s)
	case p.op == opReset:
		if s != nil {
			d.drop(s)
		}
	case s == nil || p.kind != kindStream:
		d.refuse(p)
	default:
		s.bufAlloc, s.fwdCnt = p.bufAlloc, p.fwdCnt
		d.forStream(s, p, data)
		d.schedule(s)
	}
	return nil
}

// refuse answers a packet that belongs to no stream.
func (d *Device) refuse(p packet) {
	d.control = append(d.control, packet{
		srcCID: hostCID, dstCID: d.options.CID, srcPort: p.dstPort, dstPort: p.srcPort,
		kind: p.kind, op: opReset,
	})
}

// requested has the host's port dialled for the guest. A stream old of the same
// ports is one that the guest has forgotten.
func (d *Device) requested(p packet, old *stream) {
	if old != nil {
		d.drop(old)
	}
	if len(d.streams) >= maxStreams {
		d.refuse(p)
		return
	}
	s := &stream{
		key: key{host: p.dstPort, guest: p.srcPort}, wake: sync.NewCond(&d.mu),
		bufAlloc: p.bufAlloc, fwdCnt: p.fwdCnt,
	}
	d.streams[s.key] = s
	d.workers.Go(func() { d.dial(s) })
}

// forStream acts on a packet of a stream's.
func (d *Device) forStream(s *stream, p packet, data []byte) {
	switch {
	case p.op == opResponse && !s.isOpen && s.socket != nil:
		d.open(s, vsock.Reply(s.host))
	case p.op == opData && s.isOpen && !s.ended && uint32(len(data)) <= bufferSize-(s.received-s.written):
		if len(data) > 0 {
			s.received += uint32(len(data))
			s.output = append(s.output, data)
			s.wake.Broadcast()
		}
	case p.op == opShutdown && s.isOpen:
		d.shutDown(s, p.flags)
	case p.op == opCreditRequest:
		d.send(s, opCreditUpdate, 0)
	case p.op == opCreditUpdate:
	default: // not now, or more than there is room for
		d.send(s, opReset, 0)
		d.drop(s)
	}
}

// shutDown notes what the guest will not do any more. When it will do nothing
// any more it waits for a reset, which ends the stream on its side.
func (d *Device) shutDown(s *stream, flags uint32) {
	if flags&noReceive != 0 {
		s.noInput = true
		s.pending = nil
	}
	if flags&noSend != 0 {
		s.ended = true
	}
	if s.noInput && s.ended {
		d.send(s, opReset, 0)
		d.drop(s)
	}
	s.wake.Broadcast()
}
