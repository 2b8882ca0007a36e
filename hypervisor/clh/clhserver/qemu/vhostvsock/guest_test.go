package vhostvsock

import (
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// guest plays QEMU and the guest's driver: it speaks vhost-user on one end of a
// socket pair and works the rings in memory that it shares with the device.
type guest struct {
	t      *testing.T
	device *Device
	socket string // for the host's clients
	conn   *net.UnixConn
	memfd  *os.File
	memory []byte
	kicks  [2]*os.File
	calls  [2]*os.File
	avail  [2]uint16
	used   [2]uint16
}

// Where things are in the guest's memory. QEMU has it at userBase.
const (
	guestCID   = 3
	userBase   = 0x7f00_0000_0000
	memorySize = 1 << 20
	ringSize   = 16
	ringSpace  = 4096 // per ring: descriptors, available, used
	availAt    = ringSize * descSize
	usedAt     = 1024
	buffersAt  = 64 << 10 // of the rings, one behind the other
	bufferSpan = 16 << 10 // per descriptor
)

// quiet is how long a test waits for nothing to happen.
const quiet = 50 * time.Millisecond

func newGuest(t *testing.T) *guest {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		conn, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = conn.(*net.UnixConn)
	}
	g := &guest{t: t, conn: ends[0], socket: filepath.Join(t.TempDir(), "clh.sock")}
	if g.device, err = New(ends[1], Options{CID: guestCID, Socket: g.socket}); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.MemfdCreate("guest", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	g.memfd = os.NewFile(uintptr(fd), "guest")
	if err := g.memfd.Truncate(memorySize); err != nil {
		t.Fatal(err)
	}
	if g.memory, err = unix.Mmap(fd, 0, memorySize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		t.Fatal(err)
	}
	for i := range g.kicks {
		g.kicks[i], g.calls[i] = eventfd(t), eventfd(t)
	}
	t.Cleanup(func() {
		g.device.Close()
		g.conn.Close()
		g.memfd.Close()
		for i := range g.kicks {
			g.kicks[i].Close()
			g.calls[i].Close()
		}
		unix.Munmap(g.memory)
		if _, err := os.Lstat(g.socket); !os.IsNotExist(err) {
			t.Errorf("the socket is still there: %v", err)
		}
	})
	return g
}

func eventfd(t *testing.T) *os.File {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), "eventfd")
}

// ask sends a request and gives the payload of the answer; every request but
// those that are answered anyway asks for an acknowledgement.
func (g *guest) ask(request uint32, payload []byte, files ...*os.File) []byte {
	g.t.Helper()
	var flags uint32 = flagVersion
	switch request {
	case getFeatures, getProtocolFeatures, getQueueNum, getVringBase, getConfig, getMaxMemSlots:
	default:
		flags |= flagNeedReply
	}
	g.send(request, flags, payload, files)
	var header [headerSize]byte
	g.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadFull(g.conn, header[:]); err != nil {
		g.t.Fatalf("answer to request %d: %v", request, err)
	}
	if got := binary.LittleEndian.Uint32(header[:]); got != request {
		g.t.Fatalf("answer to request %d, want %d", got, request)
	}
	answer := make([]byte, binary.LittleEndian.Uint32(header[8:]))
	if _, err := io.ReadFull(g.conn, answer); err != nil {
		g.t.Fatalf("answer to request %d: %v", request, err)
	}
	return answer
}

// tell is ask without an answer.
func (g *guest) tell(request uint32, payload []byte, files ...*os.File) {
	g.t.Helper()
	g.send(request, flagVersion, payload, files)
}

func (g *guest) send(request, flags uint32, payload []byte, files []*os.File) {
	g.t.Helper()
	b := binary.LittleEndian.AppendUint32(nil, request)
	b = binary.LittleEndian.AppendUint32(b, flags)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if _, _, err := g.conn.WriteMsgUnix(append(b, payload...), rights, nil); err != nil {
		g.t.Fatalf("request %d: %v", request, err)
	}
}

func u32s(values ...uint32) (b []byte) {
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return b
}

func u64s(values ...uint64) (b []byte) {
	for _, v := range values {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

// setUp does what QEMU does before the guest's driver comes.
func (g *guest) setUp() {
	g.t.Helper()
	g.ask(getFeatures, nil)
	g.ask(getProtocolFeatures, nil)
	g.ask(setProtocolFeatures, u64s(protocolConfig|protocolMQ|protocolReplyAck))
	g.ask(getQueueNum, nil)
	g.ask(setOwner, nil)
}

// start does what QEMU does when the driver is ready, and gives the device a
// ring of buffers to fill.
func (g *guest) start() {
	g.t.Helper()
	g.ask(setFeatures, u64s(featureVersion1|featureProtocol))
	table := append(u32s(1, 0), u64s(0, memorySize, userBase, 0)...)
	g.ask(setMemTable, table, g.memfd)
	for i := range uint32(2) {
		at := userBase + uint64(i)*ringSpace
		g.ask(setVringNum, u32s(i, ringSize))
		g.ask(setVringBase, u32s(i, uint32(g.avail[i])))
		g.ask(setVringAddr, append(u32s(i, 0), u64s(at, at+usedAt, at+availAt, 0)...))
		g.ask(setVringCall, u64s(uint64(i)), g.calls[i])
		g.ask(setVringKick, u64s(uint64(i)), g.kicks[i])
		g.ask(setVringEnable, u32s(i, 1))
	}
	for range ringSize {
		g.offer()
	}
}

// stop does what QEMU does when the driver or the machine stops.
func (g *guest) stop() {
	g.t.Helper()
	for i := range uint32(2) {
		g.ask(setVringEnable, u32s(i, 0))
		answer := g.ask(getVringBase, u32s(i, 0))
		g.avail[i] = uint16(binary.LittleEndian.Uint32(answer[4:]))
	}
}

func (g *guest) buffer(ring int, index uint16) []byte {
	at := buffersAt + (ring*ringSize+int(index))*bufferSpan
	return g.memory[at : at+bufferSpan]
}

// describe writes one descriptor.
func (g *guest) describe(ring int, index uint16, address uint64, n uint32, flags, next uint16) {
	d := g.memory[ring*ringSpace+int(index)*descSize:]
	binary.LittleEndian.PutUint64(d, address)
	binary.LittleEndian.PutUint32(d[8:], n)
	binary.LittleEndian.PutUint16(d[12:], flags)
	binary.LittleEndian.PutUint16(d[14:], next)
}

// publish makes the chain at head available.
func (g *guest) publish(ring int, head uint16) {
	at := ring*ringSpace + availAt
	binary.LittleEndian.PutUint16(g.memory[at+availOverhead+2*int(g.avail[ring]%ringSize):], head)
	g.avail[ring]++
	atomic.StoreUint32(word(g.memory[at:]), uint32(g.avail[ring])<<16)
	g.kicks[ring].Write(binary.LittleEndian.AppendUint64(nil, 1))
}

func address(ring int, index uint16) uint64 {
	return buffersAt + uint64(ring*ringSize+int(index))*bufferSpan
}

// offer gives the device one more buffer to fill.
func (g *guest) offer() {
	index := g.avail[rx] % ringSize
	g.describe(rx, index, address(rx, index), 8192, descWrite, 0)
	g.publish(rx, index)
}

// returned waits until the device has given a chain of the ring back.
func (g *guest) returned(ring int, patience time.Duration) (length uint32, ok bool) {
	used := g.memory[ring*ringSpace+usedAt:]
	for deadline := time.Now().Add(patience); uint16(atomic.LoadUint32(word(used))>>16) == g.used[ring]; {
		g.calls[ring].SetReadDeadline(deadline)
		var count [8]byte
		if _, err := g.calls[ring].Read(count[:]); err != nil && !time.Now().Before(deadline) {
			return 0, false
		}
	}
	length = binary.LittleEndian.Uint32(used[4+usedElem*int(g.used[ring]%ringSize)+4:])
	g.used[ring]++
	return length, true
}

// say sends a packet, as Linux does: the header in one buffer, data in another.
func (g *guest) say(p packet, data string) {
	g.t.Helper()
	p.length = uint32(len(data))
	header, body := uint16(0), uint16(1)
	copy(g.buffer(tx, header), p.append(nil))
	if data == "" {
		g.describe(tx, header, address(tx, header), packetSize, 0, 0)
	} else {
		copy(g.buffer(tx, body), data)
		g.describe(tx, header, address(tx, header), packetSize, descNext, body)
		g.describe(tx, body, address(tx, body), uint32(len(data)), 0, 0)
	}
	g.publish(tx, header)
	if _, ok := g.returned(tx, 10*time.Second); !ok {
		g.t.Fatalf("the device did not take %+v; its end: %v", p, g.device.Err())
	}
}

// hear waits for a packet of the device's.
func (g *guest) hear() (packet, string) {
	g.t.Helper()
	index := g.used[rx] % ringSize
	n, ok := g.returned(rx, 10*time.Second)
	if !ok {
		g.t.Fatalf("the device says nothing; its end: %v", g.device.Err())
	}
	b := append([]byte(nil), g.buffer(rx, index)[:n]...)
	p, err := parsePacket(b)
	if err != nil {
		g.t.Fatal(err)
	}
	g.offer()
	return p, string(b[packetSize:])
}

// expect waits for a packet of a kind.
func (g *guest) expect(op uint16) (packet, string) {
	g.t.Helper()
	p, data := g.hear()
	if p.op != op {
		g.t.Fatalf("the device sent %+v, want operation %d", p, op)
	}
	if p.srcCID != hostCID || p.dstCID != guestCID || p.kind != kindStream || int(p.length) != len(data) {
		g.t.Errorf("packet %+v with %d bytes", p, len(data))
	}
	return p, data
}

// silent fails if the device says something.
func (g *guest) silent() {
	g.t.Helper()
	if _, ok := g.returned(rx, quiet); ok {
		g.t.Error("the device says something")
	}
}

// to is a packet that goes the way back of p.
func to(p packet, op uint16) packet {
	return packet{
		srcCID: guestCID, dstCID: hostCID, srcPort: p.dstPort, dstPort: p.srcPort,
		kind: kindStream, op: op, bufAlloc: 1 << 16,
	}
}
