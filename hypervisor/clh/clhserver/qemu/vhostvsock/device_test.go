package vhostvsock

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

// dial is a client of the host's.
func (g *guest) dial(first string) *net.UnixConn {
	g.t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: g.socket})
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, first); err != nil {
		g.t.Fatal(err)
	}
	return conn
}

func wantLine(t *testing.T, conn net.Conn, prefix string) {
	t.Helper()
	b := make([]byte, 1)
	var line []byte
	for !bytes.HasSuffix(line, []byte("\n")) {
		if _, err := io.ReadFull(conn, b); err != nil {
			t.Fatalf("read %q, then %v", line, err)
		}
		line = append(line, b...)
	}
	if !strings.HasPrefix(string(line), prefix) {
		t.Fatalf("line %q, want %q", line, prefix)
	}
}

func wantEnd(t *testing.T, conn net.Conn, before string) {
	t.Helper()
	got, err := io.ReadAll(conn)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) || string(got) != before {
		t.Errorf("read %q, %v; want %q and the end", got, err, before)
	}
}

// connected gives both ends of a stream to the guest's port 1024.
func (g *guest) connected() (*net.UnixConn, packet) {
	g.t.Helper()
	client := g.dial("CONNECT 1024\n")
	request, _ := g.expect(opRequest)
	g.say(to(request, opResponse), "")
	wantLine(g.t, client, fmt.Sprintf("OK %d\n", request.srcPort))
	return client, request
}

func running(t *testing.T) *guest {
	g := newGuest(t)
	g.setUp()
	g.start()
	return g
}

func TestConfigurationIsTheGuestsCID(t *testing.T) {
	g := newGuest(t)
	g.setUp()
	answer := g.ask(getConfig, append(u32s(0, 8, 0), make([]byte, 8)...))
	if got := binary.LittleEndian.Uint64(answer[12:]); got != guestCID {
		t.Errorf("CID %d, want %d", got, guestCID)
	}
}

func TestHostDialsGuest(t *testing.T) {
	g := running(t)
	client, request := g.connected()
	if request.dstPort != 1024 || request.srcPort <= firstPort || request.bufAlloc != bufferSize {
		t.Errorf("request %+v", request)
	}
	io.WriteString(client, "question")
	if _, data := g.expect(opData); data != "question" {
		t.Errorf("the guest got %q", data)
	}
	g.say(to(request, opData), "answer")
	closing := to(request, opShutdown)
	closing.flags = noSend | noReceive
	g.say(closing, "")
	g.expect(opReset)
	wantEnd(t, client, "answer")
}

func TestClientWaitsForTheDriver(t *testing.T) {
	g := newGuest(t)
	g.setUp()
	client := g.dial("CONNECT 1024\n")
	g.start()
	request, _ := g.expect(opRequest)
	g.say(to(request, opResponse), "")
	wantLine(t, client, "OK ")
}

func TestRefusals(t *testing.T) {
	g := running(t)
	for _, first := range []string{"CONNECT\n", "HELLO 1024\n", "CONNECT 99999999999\n", strings.Repeat("x", 40)} {
		wantEnd(t, g.dial(first), "")
	}
	g.silent()
	client := g.dial("CONNECT 4000\n")
	request, _ := g.expect(opRequest)
	g.say(to(request, opReset), "")
	wantEnd(t, client, "")
	g.connected()
}

func TestClientsThatHangUp(t *testing.T) {
	g := running(t)
	g.dial("CONN").Close()
	g.dial("").Close()
	g.silent()

	unanswered := g.dial("CONNECT 1024\n")
	request, _ := g.expect(opRequest)
	unanswered.Close()
	g.say(to(request, opResponse), "")
	// It has closed, and then could not be told of the answer.
	for p, _ := g.hear(); p.op != opReset; p, _ = g.hear() {
		if p.op != opShutdown || p.flags != noSend|noReceive {
			t.Errorf("the device sent %+v", p)
		}
	}

	open, request := g.connected()
	io.WriteString(open, "last")
	open.Close()
	if _, data := g.expect(opData); data != "last" {
		t.Errorf("the guest got %q", data)
	}
	if p, _ := g.expect(opShutdown); p.flags != noSend|noReceive {
		t.Errorf("shutdown with flags %d", p.flags)
	}
	g.say(to(request, opReset), "")
	g.connected()
}

func TestHalfCloses(t *testing.T) {
	g := running(t)
	client, request := g.connected()
	client.CloseWrite()
	if p, _ := g.expect(opShutdown); p.flags != noSend {
		t.Errorf("shutdown with flags %d, want only that no more is sent", p.flags)
	}
	g.say(to(request, opData), "still here")
	closing := to(request, opShutdown)
	closing.flags = noSend
	g.say(closing, "")
	wantEnd(t, client, "still here")

	client, request = g.connected()
	closing = to(request, opShutdown)
	closing.flags = noSend
	g.say(closing, "")
	wantEnd(t, client, "")
	io.WriteString(client, "and still")
	if _, data := g.expect(opData); data != "and still" {
		t.Errorf("the guest got %q", data)
	}
}

func TestNoMoreIsSentThanTheGuestHasRoomFor(t *testing.T) {
	g := running(t)
	client := g.dial("CONNECT 1024\n")
	request, _ := g.expect(opRequest)
	answer := to(request, opResponse)
	answer.bufAlloc = 10
	g.say(answer, "")
	wantLine(t, client, "OK ")
	io.WriteString(client, "0123456789abcdef")
	if _, data := g.expect(opData); data != "0123456789" {
		t.Errorf("the guest got %q, want ten bytes", data)
	}
	g.silent()
	update := to(request, opCreditUpdate)
	update.bufAlloc, update.fwdCnt = 10, 4
	g.say(update, "")
	if _, data := g.expect(opData); data != "abcd" {
		t.Errorf("the guest got %q, want four bytes", data)
	}
	update.bufAlloc, update.fwdCnt = 2, 4 // it has shrunk
	g.say(update, "")
	g.silent()
	update.bufAlloc, update.fwdCnt = 10, 14
	g.say(update, "")
	if _, data := g.expect(opData); data != "ef" {
		t.Errorf("the guest got %q, want the rest", data)
	}
}

func TestGuestThatSendsTooMuchIsReset(t *testing.T) {
	g := running(t)
	_, request := g.connected() // and nobody reads from it
	chunk := strings.Repeat("x", bufferSpan)
	for range 64 * bufferSize / len(chunk) {
		data := to(request, opData)
		g.say(data, chunk)
		if n, ok := g.returned(rx, 0); ok {
			p, err := parsePacket(g.buffer(rx, (g.used[rx]-1)%ringSize)[:n])
			if err != nil {
				t.Fatal(err)
			}
			g.offer()
			if p.op == opReset {
				return
			}
		}
	}
	t.Error("the guest may send without end")
}

func TestCreditIsReturned(t *testing.T) {
	g := running(t)
	client, request := g.connected()
	const total = 4 * bufferSize
	got := make(chan int64)
	go func() {
		n, _ := io.CopyN(io.Discard, client, total)
		got <- n
	}()
	chunk := strings.Repeat("x", bufferSpan)
	var told uint32
	for sent := uint32(0); sent < total; sent += uint32(len(chunk)) {
		for sent+uint32(len(chunk))-told > bufferSize {
			p, _ := g.expect(opCreditUpdate)
			told = p.fwdCnt
		}
		g.say(to(request, opData), chunk)
	}
	if n := <-got; n != total {
		t.Errorf("the client got %d bytes, want %d", n, total)
	}
}

func TestGuestDialsHost(t *testing.T) {
	g := running(t)
	l, err := net.Listen("unix", g.socket+"_77")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	request := packet{srcCID: guestCID, dstCID: hostCID, srcPort: 5, dstPort: 77, kind: kindStream, op: opRequest, bufAlloc: 1 << 16}
	g.say(request, "")
	answer, _ := g.expect(opResponse)
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	g.say(to(answer, opData), "hello")
	b := make([]byte, 5)
	if _, err := io.ReadFull(conn, b); err != nil || string(b) != "hello" {
		t.Errorf("the host got %q, %v", b, err)
	}
	request.dstPort = 78 // nobody listens
	g.say(request, "")
	g.expect(opReset)
}

func TestPacketsForNobody(t *testing.T) {
	g := running(t)
	stray := packet{srcCID: guestCID, dstCID: hostCID, srcPort: 5, dstPort: 6, kind: kindStream, op: opData}
	g.say(stray, "lost")
	if p, _ := g.expect(opReset); p.srcPort != 6 || p.dstPort != 5 {
		t.Errorf("reset %+v", p)
	}
	stray.op = opReset // is not answered
	g.say(stray, "")
	stray.op, stray.dstCID = opRequest, 7
	g.say(stray, "")
	stray.dstCID, stray.srcCID = hostCID, 9
	g.say(stray, "")
	g.silent()
	stray.srcCID, stray.kind = guestCID, 2
	g.say(stray, "")
	if p, _ := g.hear(); p.op != opReset || p.kind != 2 {
		t.Errorf("the device sent %+v to a request for a sequenced-packet stream", p)
	}
}

func TestStreamsOutliveAPause(t *testing.T) {
	g := running(t)
	client, request := g.connected()
	g.stop()
	io.WriteString(client, "while paused")
	g.silent()
	for i := range g.used {
		// QEMU goes on where the rings were.
		g.ask(setVringNum, u32s(uint32(i), ringSize))
		g.ask(setVringBase, u32s(uint32(i), uint32(g.used[i])))
		at := userBase + uint64(i)*ringSpace
		g.ask(setVringAddr, append(u32s(uint32(i), 0), u64s(at, at+usedAt, at+availAt, 0)...))
		g.ask(setVringKick, u64s(uint64(i)), g.kicks[i])
		g.ask(setVringEnable, u32s(uint32(i), 1))
	}
	g.avail[rx] = g.used[rx] + ringSize
	g.avail[tx] = g.used[tx]
	if _, data := g.expect(opData); data != "while paused" {
		t.Errorf("the guest got %q", data)
	}
	g.say(to(request, opData), "resumed")
	b := make([]byte, 7)
	if _, err := io.ReadFull(client, b); err != nil || string(b) != "resumed" {
		t.Errorf("the client got %q, %v", b, err)
	}
}

func TestResetEndsStreams(t *testing.T) {
	g := running(t)
	client, _ := g.connected()
	asking := g.dial("CONNECT 1024\n")
	g.expect(opRequest)
	g.device.Reset()
	wantEnd(t, client, "")
	wantEnd(t, asking, "")
	g.connected()
}

func TestGuestThatNeverAnswers(t *testing.T) {
	g := running(t)
	client := g.dial("CONNECT 1024\n")
	g.expect(opRequest)
	wantEnd(t, client, "")
	g.expect(opReset)
}
