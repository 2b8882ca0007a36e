package vhostvsock

import (
	"bytes"
	"encoding/binary"
	"os"
	"testing"
)

// FuzzRing hands the device rings whose every byte is the guest's. Whatever a
// chain says, its buffers lie in the guest's memory and there are not more of
// them than descriptors.
func FuzzRing(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 44, 0, 0, 0, 1, 0, 1, 0}, uint16(0), uint16(3))
	f.Add(bytes.Repeat([]byte{1}, 512), uint16(0xffff), uint16(0))
	f.Fuzz(func(t *testing.T, content []byte, next, available uint16) {
		data := make([]byte, 4096)
		copy(data[16:], content)
		mem := memory{{guest: 0x1000, user: userBase, data: data}}
		r := ring{size: 8, desc: userBase + 16, avail: userBase + 1024, used: userBase + 2048, next: next, enabled: true, kick: os.Stdin}
		if err := r.resolve(mem); err != nil {
			t.Fatal(err)
		}
		binary.LittleEndian.PutUint16(data[1026:], available)
		for range r.size {
			if !r.available() {
				return
			}
			c, err := r.take(mem)
			if err != nil {
				return
			}
			buffers := append(c.readable, c.writable...)
			if len(buffers) == 0 || len(buffers) > int(r.size) {
				t.Fatalf("chain of %d buffers in a ring of %d", len(buffers), r.size)
			}
			if length(buffers) > int(r.size)*len(data) {
				t.Fatalf("chain of %d bytes in a memory of %d", length(buffers), len(data))
			}
			scatter(c.writable, content)
			r.push(c, 0)
		}
	})
}

// FuzzPacket: what a header says is what is written for it.
func FuzzPacket(f *testing.F) {
	f.Add(packet{srcCID: 3, dstCID: 2, op: opRequest, kind: kindStream}.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parsePacket(b)
		if err != nil {
			return
		}
		if again := p.append(nil); !bytes.Equal(again, b[:packetSize]) {
			t.Errorf("%x is read as %+v and written as %x", b[:packetSize], p, again)
		}
	})
}

// FuzzFromGuest plays a sequence of the guest's packets. The device's table
// holds what its rules allow, and no stream of it is gone.
func FuzzFromGuest(f *testing.F) {
	seed := packet{srcCID: guestCID, dstCID: hostCID, srcPort: 1, dstPort: 1, kind: kindStream, op: opData, length: 3}.append(nil)
	f.Add(append(seed, 'a', 'b', 'c'))
	f.Fuzz(func(t *testing.T, b []byte) {
		d := &Device{options: Options{CID: guestCID, Socket: t.TempDir() + "/s"}, streams: map[key]*stream{}, live: map[*stream]struct{}{}}
		for len(b) >= packetSize {
			p, err := parsePacket(b)
			if err != nil {
				return
			}
			n := min(len(b), packetSize+int(p.length))
			d.mu.Lock()
			err = d.fromGuest([][]byte{b[:packetSize], b[packetSize:n]})
			for k, s := range d.streams {
				if s.gone || s.key != k {
					t.Errorf("stream %+v under %+v", s, k)
				}
			}
			d.mu.Unlock()
			if err != nil {
				break
			}
			b = b[n:]
		}
		d.workers.Wait()
	})
}

// FuzzMessages: no message without descriptors makes the device map memory or
// run a ring.
func FuzzMessages(f *testing.F) {
	for request := range uint32(40) {
		f.Add(request, u64s(0, 0, 0, 0, 0))
	}
	f.Add(uint32(setVringNum), u32s(0, 16))
	f.Fuzz(func(t *testing.T, request uint32, payload []byte) {
		d := &Device{options: Options{CID: guestCID}}
		for range 2 {
			if _, err := d.carryOut(&message{request: request, payload: payload}); err != nil {
				return
			}
		}
		if len(d.mem) > 0 || d.rings[rx].running() || d.rings[tx].running() {
			t.Errorf("request %d: %d regions, rings %+v", request, len(d.mem), d.rings)
		}
	})
}
