// Package vhostvsock is a virtio socket device in this process: a back-end of
// QEMU's vhost-user-vsock-pci that joins the guest's vsock ports with Unix
// sockets, by the rules of Firecracker's and Cloud Hypervisor's hybrid vsock:
//
//	host → guest  connect to <socket>, send "CONNECT <port>\n", read "OK <n>\n"
//	guest → host  connect to CID 2, port <n>: arrives at <socket>_<n>
//
// A refused connection is closed without a word. Until the guest's driver uses
// the device, clients wait in the socket's backlog. Ends of streams pass through
// in either direction separately.
//
// The bytes in the rings come from the guest and are trusted in nothing; a guest
// that breaks its rings loses the device.
package vhostvsock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Options describe a device.
type Options struct {
	CID    uint64 // the guest's
	Socket string // path of the Unix socket for the host's clients; Close removes it
}

// Device is one device. Its end, however it comes about, closes Done.
type Device struct {
	options  Options
	conn     *net.UnixConn
	listener *net.UnixListener
	done     chan struct{}
	workers  sync.WaitGroup

	// mu guards all that follows, the rings included. Copying to and from the
	// guest's memory is done under it; reading and writing sockets is not.
	mu        sync.Mutex
	err       error
	closed    bool
	features  uint64
	mem       memory
	rings     [2]ring
	accepting bool
	clients   map[*net.UnixConn]struct{} // whose CONNECT line is being read

	streams  map[key]*stream
	live     map[*stream]struct{} // whose sockets are being served
	lastPort uint32
	control  []packet  // to be sent before any data
	ready    []*stream // with something to send, in their order
}

// The rings, as the guest's driver numbers them. The third one, of events,
// stays with QEMU.
const (
	rx = 0 // to the guest
	tx = 1 // from the guest
)

const (
	featureProtocol = 1 << 30 // VHOST_USER_F_PROTOCOL_FEATURES
	featureVersion1 = 1 << 32

	protocolMQ       = 1 << 0
	protocolReplyAck = 1 << 3
	protocolConfig   = 1 << 9
	protocolMemSlots = 1 << 15 // regions of memory are added and removed one by one
)

// ErrHungUp says that QEMU closed its end, as it does when it ends.
var ErrHungUp = errors.New("vsock device: QEMU hung up")

// New makes a device whose socket listens. conn is the end of QEMU's chardev and
// belongs to the device from then on.
func New(conn *net.UnixConn, o Options) (*Device, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: o.Socket})
	if err != nil {
		return nil, fmt.Errorf("vsock socket: %w", err)
	}
	d := &Device{
		options: o, conn: conn, listener: l, done: make(chan struct{}),
		streams: make(map[key]*stream), live: make(map[*stream]struct{}), clients: make(map[*net.UnixConn]struct{}),
		lastPort: firstPort,
	}
	d.workers.Go(d.serve)
	return d, nil
}

// Done is closed when the device has ended: QEMU hung up, the guest broke its
// rings, or Close was called.
func (d *Device) Done() <-chan struct{} { return d.done }

// Err says why the device ended; nil while it lasts, and if it was closed.
func (d *Device) Err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// Close ends the device and all streams, removes the socket and waits until
// nothing of it runs.
func (d *Device) Close() {
	d.end(nil)
	d.workers.Wait()
}

// Reset ends all streams, because the guest that had them is no more.
func (d *Device) Reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.control, d.ready = nil, nil
	for _, s := range d.streams {
		d.drop(s)
	}
}

func (d *Device) end(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.endLocked(err)
}

func (d *Device) endLocked(err error) {
	if d.closed {
		return
	}
	d.closed, d.err = true, err
	d.conn.Close()
	d.listener.Close()
	for _, s := range d.streams {
		d.drop(s)
	}
	for s := range d.live {
		s.socket.Close() // a peer that does not read is not waited for
	}
	for client := range d.clients {
		client.Close()
	}
	for i := range d.rings {
		d.stop(&d.rings[i])
		d.rings[i].setCall(nil)
	}
	d.mem.unmap()
	d.mem = nil
	close(d.done)
}

// stop takes the ring out of work. The goroutine that waits for kicks ends.
func (d *Device) stop(r *ring) {
	if r.kick != nil {
		r.kick.Close()
		r.kick = nil
	}
	r.mapped, r.lost = false, false
}

func (r *ring) setCall(f *os.File) {
	if r.call != nil {
		r.call.Close()
	}
	r.call = f
}

// serve answers QEMU.
func (d *Device) serve() {
	for {
		m, err := receive(d.conn)
		if err == nil {
			err = d.handle(&m)
		}
		for _, f := range m.files { // those that nobody took
			f.Close()
		}
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE):
			d.end(ErrHungUp)
			return
		case err != nil:
			d.end(fmt.Errorf("vsock device: %w", err))
			return
		}
	}
}

// handle carries out one request and answers it.
func (d *Device) handle(m *message) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return net.ErrClosed
	}
	answer, err := d.carryOut(m)
	if err != nil {
		return fmt.Errorf("request %d: %w", m.request, err)
	}
	if answer == nil && m.needReply {
		answer = make([]byte, 8)
	}
	if answer == nil {
		return nil
	}
	return reply(d.conn, m.request, answer)
}

func (d *Device) carryOut(m *message) (answer []byte, err error) {
	f := fields{rest: m.payload}
	u64 := func(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }
	switch m.request {
	case getFeatures:
		return u64(featureVersion1 | featureProtocol), nil
	case setFeatures:
		d.features = f.u64()
	case getProtocolFeatures:
		return u64(protocolMQ | protocolReplyAck | protocolConfig | protocolMemSlots), nil
	case getQueueNum:
		return u64(uint64(len(d.rings))), nil
	case setProtocolFeatures, setOwner, resetOwner, setVringErr:
	case getConfig:
		return d.config(m.payload)
	case setMemTable:
		return nil, d.setMemory(m)
	case getMaxMemSlots:
		return u64(maxRegions), nil
	case addMemReg:
		return nil, d.addMemory(m)
	case remMemReg:
		return nil, d.removeMemory(m)
	case setVringKick, setVringCall:
		return nil, d.setFile(m, f.u64())
	case setVringNum, setVringBase, getVringBase, setVringEnable, setVringAddr:
		return d.setRing(m.request, &f)
	default:
		return nil, errors.New("vhost-user: not a request of this device's features")
	}
	if f.bad {
		return nil, errors.New("vhost-user: message is cut short")
	}
	return nil, nil
}

// config answers with the device's configuration space: the guest's CID.
func (d *Device) config(payload []byte) ([]byte, error) {
	f := fields{rest: payload}
	offset, size := f.u32(), f.u32()
	f.u32() // flags
	space := binary.LittleEndian.AppendUint64(nil, d.options.CID)
	if f.bad || int(offset) > len(space) || int(size) > len(space)-int(offset) || int(size) != len(f.rest) {
		return nil, errors.New("vhost-user: no such part of the configuration")
	}
	answer := append([]byte(nil), payload...)
	copy(answer[12:], space[offset:offset+size])
	return answer, nil
}

func (d *Device) setMemory(m *message) error {
	mem, err := parseMemTable(m.payload, m.files)
	if err != nil {
		return err
	}
	d.mem.unmap()
	d.mem = mem
	for i := range d.rings {
		if r := &d.rings[i]; r.mapped {
			if err := r.resolve(mem); err != nil {
				return err
			}
		}
	}
	return nil
}

// addMemory adds a region. A ring that lay in one that was removed may lie in it.
func (d *Device) addMemory(m *message) error {
	mem, err := d.mem.with(m.payload, m.files)
	if err != nil {
		return err
	}
	d.mem = mem
	for i := range d.rings {
		if r := &d.rings[i]; r.lost && r.resolve(mem) == nil {
			r.lost = false
		}
	}
	return d.started()
}

// removeMemory takes a region out. QEMU changes one by removing it and adding what
// it has become, so a ring in it only rests.
func (d *Device) removeMemory(m *message) error {
	mem, gone, err := d.mem.without(m.payload)
	if err != nil {
		return err
	}
	for i := range d.rings {
		if r := &d.rings[i]; r.mapped && r.resolve(mem) != nil {
			r.mapped, r.lost = false, true
		}
	}
	d.mem = mem
	gone.unmap()
	return nil
}

// setFile takes over a ring's eventfd.
func (d *Device) setFile(m *message, value uint64) error {
	const indexMask, noFile = 0xff, 0x100
	index := value & indexMask
	if index >= uint64(len(d.rings)) {
		return fmt.Errorf("vhost-user: ring %d", index)
	}
	var file *os.File
	if value&noFile == 0 {
		if len(m.files) != 1 {
			return fmt.Errorf("vhost-user: %d descriptors, want one", len(m.files))
		}
		file, m.files = m.files[0], nil
	}
	r := &d.rings[index]
	if m.request == setVringCall {
		r.setCall(file)
		return nil
	}
	if r.kick != nil {
		r.kick.Close()
	}
	r.kick = file
	if file != nil {
		d.workers.Go(func() { d.kicked(file) })
	}
	return d.started()
}

// setRing changes or asks for what belongs to one ring.
func (d *Device) setRing(request uint32, f *fields) ([]byte, error) {
	index, value := f.u32(), f.u32()
	if f.bad || index >= uint32(len(d.rings)) {
		return nil, fmt.Errorf("vhost-user: ring %d", index)
	}
	r := &d.rings[index]
	switch request {
	case setVringNum:
		if value == 0 || value > maxRing {
			return nil, fmt.Errorf("vhost-user: ring of %d descriptors", value)
		}
		r.size = uint16(value)
	case setVringBase:
		r.next = uint16(value)
	case getVringBase:
		d.stop(r)
		answer := binary.LittleEndian.AppendUint32(nil, index)
		return binary.LittleEndian.AppendUint32(answer, uint32(r.next)), nil
	case setVringEnable:
		r.enabled = value != 0
		return nil, d.started()
	case setVringAddr:
		r.desc, r.used, r.avail = f.u64(), f.u64(), f.u64()
		if f.bad {
			return nil, errors.New("vhost-user: message is cut short")
		}
		r.lost = false
		return nil, r.resolve(d.mem)
	}
	return nil, nil
}

// started works on what the guest may have made available while a ring was not
// running, and lets clients in when both run for the first time.
func (d *Device) started() error {
	if !d.rings[rx].running() || !d.rings[tx].running() {
		return nil
	}
	if !d.accepting {
		d.accepting = true
		d.workers.Go(d.accept)
	}
	d.work()
	return d.err
}

// kicked works whenever the guest says that there is something to do.
func (d *Device) kicked(kick *os.File) {
	var count [8]byte
	for {
		if _, err := kick.Read(count[:]); err != nil {
			return // closed
		}
		d.mu.Lock()
		d.work()
		d.mu.Unlock()
	}
}
