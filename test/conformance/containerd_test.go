package conformance

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

// impostor listens where containerd takes events, and does something else with
// each connection.
type impostor struct {
	listener net.Listener

	mu    sync.Mutex
	conns []net.Conn
}

// replaceSink puts an impostor in containerd's place until heal is called.
func (h *host) replaceSink(do func(net.Conn)) (heal func()) {
	h.t.Helper()
	socket := filepath.Join(h.dir, "events.sock")
	h.sink.close()
	os.Remove(socket)
	l, err := net.Listen("unix", socket)
	if err != nil {
		h.t.Fatal(err)
	}
	i := &impostor{listener: l}
	go i.serve(do)
	return func() {
		i.close()
		os.Remove(socket)
		h.sink.listen(socket)
	}
}

func (i *impostor) serve(do func(net.Conn)) {
	for {
		c, err := i.listener.Accept()
		if err != nil {
			return
		}
		i.mu.Lock()
		i.conns = append(i.conns, c)
		i.mu.Unlock()
		go do(c)
	}
}

func (i *impostor) close() {
	i.listener.Close()
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, c := range i.conns {
		c.Close()
	}
}

// onRead calls do for everything that is read.
func onRead(do func(c net.Conn, b []byte) bool) func(net.Conn) {
	return func(c net.Conn) {
		defer c.Close()
		buf := make([]byte, 4096)
		for {
			n, err := c.Read(buf)
			if err != nil || !do(c, buf[:n]) {
				return
			}
		}
	}
}

// impostures are how containerd may answer an event, if it is there at all.
var impostures = map[string]func(net.Conn){
	"hangs":              onRead(func(net.Conn, []byte) bool { return true }),
	"hangs up":           func(c net.Conn) { c.Close() },
	"reads and hangs up": onRead(func(net.Conn, []byte) bool { return false }),
	"answers garbage": onRead(func(c net.Conn, _ []byte) bool {
		write(c, []byte(strings.Repeat("\xff\x00garbage", 8)))
		return true
	}),
	"answers no message": onRead(func(c net.Conn, b []byte) bool {
		if len(b) > 8 { // to this request, with something that is no Response
			write(c, append(append(frame(3, 0, 2)[:4], b[4:8]...), 2, 0, 0xff, 0xff, 0xff))
		}
		return true
	}),
}

// containerd does not take events as it should from some step on, until the pod is
// to be deleted: no request is held up by that, and no event is lost.
func TestMatrixOfContainerd(t *testing.T) {
	t.Parallel()
	for name, do := range impostures {
		for at, phase := range phases() {
			cell(t, "containerd", fmt.Sprintf("%s after %s", name, phase), func(t *testing.T) {
				l := newLife(newHost(t, memory.Script{}))
				l.walk(0, at+1)
				heal := l.h.replaceSink(do)
				l.lostEvents = true
				if at+1 < len(phases()) {
					l.walk(at+1, 0)
				}
				heal()
				l.end()
				l.wantCodes()
				l.wantWholeLife()
			})
		}
	}
	for at, phase := range phases() {
		cell(t, "containerd", "refuses after "+phase, func(t *testing.T) {
			l := newLife(newHost(t, memory.Script{}))
			l.walk(0, at+1)
			l.h.sink.mu.Lock()
			l.h.sink.refuse = 3
			l.h.sink.mu.Unlock()
			if at+1 < len(phases()) {
				l.walk(at+1, 0)
			}
			l.end()
			l.wantCodes()
			l.wantWholeLife()
		})
	}
}

// wantWholeLife checks that every event of a life in which nothing failed was
// told, in the order of its container.
func (l *life) wantWholeLife() {
	l.h.t.Helper()
	for id, want := range map[string]string{
		l.s.id:  "create start exit delete",
		l.other: "create start exit delete",
		l.id:    "create start exec-added exec-started exit exit delete",
	} {
		var got []string
		last := ""
		for _, e := range l.h.sink.list() {
			fields := strings.Fields(e)
			if fields[1] == id && (!l.lostEvents || e != last) {
				got = append(got, fields[0])
			}
			last = e
		}
		if text := strings.Join(got, " "); text != want {
			l.h.t.Errorf("events of %s: %s, want %s", id, text, want)
		}
	}
}
