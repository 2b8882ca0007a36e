package conformance

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

// link is the way from the shim to the agent, which a story can disturb.
type link struct {
	listener net.Listener
	far      string // the agent's socket

	mu     sync.Mutex
	first  []func(net.Conn) // what becomes of the connections to come, one by one
	always func(net.Conn)   // and of all after those; nil: they lead to the agent
	near   []*net.UnixConn  // connections of the shim that lead to the agent
	silent bool             // nothing goes either way any more
}

// disturbable puts a link before the agent of a sandbox that is not started yet.
func (h *host) disturbable(sandbox string) *link {
	h.t.Helper()
	path := filepath.Join(h.dir, sandbox+".link")
	l, err := net.Listen("unix", path)
	if err != nil {
		h.t.Fatal(err)
	}
	k := &link{listener: l, far: filepath.Join(h.dir, sandbox+".agent")}
	h.script.Hybrid = filepath.Join(h.dir, "{id}.link")
	h.t.Cleanup(func() { l.Close() })
	go k.serve()
	return k
}

func (k *link) serve() {
	for {
		c, err := k.listener.Accept()
		if err != nil {
			return
		}
		k.mu.Lock()
		do := k.always
		if len(k.first) > 0 {
			do, k.first = k.first[0], k.first[1:]
		}
		k.mu.Unlock()
		if do != nil {
			go do(c)
			continue
		}
		go k.join(c.(*net.UnixConn))
	}
}

func (k *link) join(near *net.UnixConn) {
	c, err := net.Dial("unix", k.far)
	if err != nil {
		near.Close()
		return
	}
	far := c.(*net.UnixConn)
	k.mu.Lock()
	k.near = append(k.near, near)
	k.mu.Unlock()
	go k.pump(far, near)
	k.pump(near, far)
}

// pump copies until one side ends, and drops what comes once the link is silent.
func (k *link) pump(to, from *net.UnixConn) {
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		k.mu.Lock()
		silent := k.silent
		k.mu.Unlock()
		if err == nil && !silent {
			_, err = to.Write(buf[:n])
		}
		if err != nil {
			to.Close()
			from.Close()
			return
		}
	}
}

// toShim makes the link silent but for what do does to each connection.
func (k *link) toShim(do func(near *net.UnixConn)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.silent = true
	for _, c := range k.near {
		do(c)
	}
}

// frame is the head of a message of ttrpc.
func frame(length, stream uint32, kind byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, length)
	b = binary.BigEndian.AppendUint32(b, stream)
	return append(b, kind, 0)
}

func write(c net.Conn, b []byte) { _, _ = c.Write(b) } // the shim may have hung up

// disturbances are what may happen to the connection to the agent.
var disturbances = map[string]func(k *link){
	"is cut": func(k *link) { k.toShim(func(c *net.UnixConn) { c.Close() }) },
	"hangs":  func(k *link) { k.toShim(func(*net.UnixConn) {}) },
	"ends":   func(k *link) { k.toShim(func(c *net.UnixConn) { _ = c.CloseWrite() }) },
	"is garbled": func(k *link) {
		k.toShim(func(c *net.UnixConn) { write(c, []byte(strings.Repeat("\xff\x00garbage", 64))) })
	},
	"gives a message that is too large": func(k *link) {
		k.toShim(func(c *net.UnixConn) { write(c, append(frame(1<<24-1, 1, 2), make([]byte, 1<<16)...)) })
	},
	"dies within a message": func(k *link) {
		k.toShim(func(c *net.UnixConn) { write(c, append(frame(1000, 1, 2), "half"...)); c.Close() })
	},
}

func TestMatrixOfConnections(t *testing.T) {
	t.Parallel()
	for name, disturb := range disturbances {
		for at, phase := range phases()[:len(phases())-1] {
			weighedCell(t, "vsock", fmt.Sprintf("%s after %s", name, phase), name == "hangs", func(t *testing.T) {
				h := newHost(t, memory.Script{})
				k := h.disturbable(h.id("pod"))
				l := newLife(h)
				l.walk(0, at+1)
				disturb(k)
				l.patience = impatience
				l.walk(at+1, 0)
				l.end()
				l.wantCodes(append([]codes.Code{codes.Unavailable, codes.DeadlineExceeded}, consequences...)...)
			})
		}
	}
}

// handshakes are what the VMM may answer to a connection for the agent.
var handshakes = map[string]func(c net.Conn){
	"hangs up":        func(c net.Conn) { c.Close() },
	"refuses":         func(c net.Conn) { readLine(c); c.Close() },
	"says no":         func(c net.Conn) { readLine(c); write(c, []byte("NO 1024\n")); c.Close() },
	"says garbage":    func(c net.Conn) { readLine(c); write(c, []byte("\x00\xffOK\n")); c.Close() },
	"dies midway":     func(c net.Conn) { readLine(c); write(c, []byte("OK 10")); c.Close() },
	"never ends":      func(c net.Conn) { readLine(c); write(c, []byte("OK "+strings.Repeat("1", 1<<16))); c.Close() },
	"agrees and dies": func(c net.Conn) { readLine(c); write(c, []byte("OK 1024\n")); c.Close() },
	"agrees and raves": func(c net.Conn) {
		readLine(c)
		write(c, []byte("OK 1024\n"+strings.Repeat("rave", 1<<10)))
		time.Sleep(50 * time.Millisecond)
		c.Close()
	},
	"hangs": func(c net.Conn) { _, _ = io.Copy(io.Discard, c); c.Close() },
}

func readLine(c net.Conn) {
	b := make([]byte, 1)
	for b[0] != '\n' {
		if _, err := c.Read(b); err != nil {
			return
		}
	}
}

// A handshake may fail a few times while a guest boots; one that always fails
// ends the start of the sandbox when the time for it is over.
func TestMatrixOfHandshakes(t *testing.T) {
	t.Parallel()
	for name, do := range handshakes {
		cell(t, "vsock", name+" at first", func(t *testing.T) {
			h := newHost(t, memory.Script{})
			k := h.disturbable(h.id("pod"))
			k.first = []func(net.Conn){do}
			if name != "hangs" {
				k.first = append(k.first, do)
			}
			h.configure(vmmBinary, "dial_timeout = 20\n")
			l := newLife(h)
			l.walk(0, 0)
			l.end()
			l.wantCodes()
		})
		cell(t, "vsock", name+" always", func(t *testing.T) {
			h := newHost(t, memory.Script{})
			k := h.disturbable(h.id("pod"))
			k.always = do
			h.configure(vmmBinary, "dial_timeout = 1\n")
			l := newLife(h)
			wantText(t, l.s.tryCreate(h.ctx(), l.s.id, streams{}, h.layer("pause")), "connect to the agent", "dial timeout of 1s")
			l.walk(1, 0)
			l.end()
			l.wantCodes(append([]codes.Code{codes.DeadlineExceeded}, consequences...)...)
		})
	}
}
