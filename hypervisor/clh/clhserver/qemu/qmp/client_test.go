package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const greeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}`

// fakeQEMU is the other end of a session; the test plays QEMU by hand.
type fakeQEMU struct {
	t    *testing.T
	conn *net.UnixConn
	in   *bufio.Reader
}

// pair gives a Unix stream's two ends.
func pair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ends := make([]*net.UnixConn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		conn, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		ends[i] = conn.(*net.UnixConn)
	}
	return ends[0], ends[1]
}

// start gives a session that has been greeted.
func start(t *testing.T) (*Client, *fakeQEMU) {
	t.Helper()
	ours, theirs := pair(t)
	q := &fakeQEMU{t: t, conn: theirs, in: bufio.NewReader(theirs)}
	go func() {
		q.say(greeting)
		id, _ := q.hear("qmp_capabilities")
		q.say(fmt.Sprintf(`{"return": {}, "id": %d}`, id))
	}()
	c, err := New(t.Context(), ours)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, q
}

func (q *fakeQEMU) say(line string) {
	if _, err := io.WriteString(q.conn, line+"\r\n"); err != nil {
		q.t.Error(err)
	}
}

func (q *fakeQEMU) hear(name string) (uint64, json.RawMessage) {
	line, err := q.in.ReadBytes('\n')
	if err != nil {
		q.t.Error(err)
		return 0, nil
	}
	var cmd struct {
		Execute   string
		Arguments json.RawMessage
		ID        uint64
	}
	if err := json.Unmarshal(line, &cmd); err != nil {
		q.t.Errorf("%s: %v", line, err)
	}
	if cmd.Execute != name {
		q.t.Errorf("client sent %q, want %q", cmd.Execute, name)
	}
	return cmd.ID, cmd.Arguments
}

func TestEventsBetweenCommandAndAnswer(t *testing.T) {
	c, q := start(t)
	go func() {
		id, args := q.hear("query-status")
		if args != nil {
			t.Errorf("arguments %s, want none", args)
		}
		for i := range 100 {
			q.say(fmt.Sprintf(`{"event": "E%d", "data": {"n": %d}, "timestamp": {"seconds": 1, "microseconds": 2}}`, i, i))
		}
		q.say(fmt.Sprintf(`{"return": {"status": "running"}, "id": %d}`, id))
		q.say(`{"event": "LAST", "timestamp": {"seconds": 1, "microseconds": 2}}`)
		q.conn.Close()
	}()
	var status struct{ Status string }
	if err := c.Run(t.Context(), "query-status", nil, &status); err != nil || status.Status != "running" {
		t.Errorf("status %q, %v; want running", status.Status, err)
	}
	for i := range 100 {
		if e, err := c.Next(); err != nil || e.Name != fmt.Sprintf("E%d", i) || string(e.Data) != fmt.Sprintf(`{"n": %d}`, i) {
			t.Fatalf("event %d is %q %s, %v", i, e.Name, e.Data, err)
		}
	}
	if e, err := c.Next(); err != nil || e.Name != "LAST" {
		t.Errorf("event %q, %v; want LAST", e.Name, err)
	}
	if e, err := c.Next(); err == nil {
		t.Errorf("event %q after the end of the session", e.Name)
	}
}

func TestRefusal(t *testing.T) {
	c, q := start(t)
	go func() {
		id, _ := q.hear("device_del")
		q.say(fmt.Sprintf(`{"id": %d, "error": {"class": "DeviceNotFound", "desc": "Device 'x' not found"}}`, id))
	}()
	err := c.Run(t.Context(), "device_del", map[string]string{"id": "x"}, nil)
	var refusal *Error
	if !errors.As(err, &refusal) || refusal.Class != "DeviceNotFound" {
		t.Fatalf("error %v, want class DeviceNotFound", err)
	}
	if got, want := err.Error(), "QMP device_del: Device 'x' not found"; got != want {
		t.Errorf("error %q, want %q", got, want)
	}
}

func TestGivingUpOnACommand(t *testing.T) {
	c, q := start(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		id, _ := q.hear("stop")
		cancel(errors.New("no patience"))
		late := id
		id, _ = q.hear("cont")
		q.say(fmt.Sprintf(`{"return": {}, "id": %d}`, late))
		q.say(fmt.Sprintf(`{"return": {}, "id": %d}`, id))
	}()
	if err := c.Run(ctx, "stop", nil, nil); err == nil || !strings.Contains(err.Error(), "no patience") {
		t.Errorf("error %v, want the context's cause", err)
	}
	if err := c.Run(t.Context(), "cont", nil, nil); err != nil {
		t.Errorf("the next command: %v", err)
	}
}

func TestFilesGoAlong(t *testing.T) {
	c, q := start(t)
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := make(chan uint64, 1)
	go func() {
		line, rights := make([]byte, 4096), make([]byte, 64)
		_, n, _, _, err := q.conn.ReadMsgUnix(line, rights)
		if err != nil {
			t.Error(err)
		}
		got <- inode(t, rights[:n])
		q.say(`{"return": {}, "id": 2}`)
	}()
	if err := c.Run(t.Context(), "getfd", map[string]string{"fdname": "tap"}, nil, f); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	if ino := <-got; ino != st.Ino {
		t.Errorf("QEMU got inode %d, want %d", ino, st.Ino)
	}
}

func inode(t *testing.T, rights []byte) uint64 {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) != 1 {
		t.Errorf("%d control messages, %v", len(messages), err)
		return 0
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Errorf("descriptors %v, %v", fds, err)
		return 0
	}
	defer unix.Close(fds[0])
	var st unix.Stat_t
	if err := unix.Fstat(fds[0], &st); err != nil {
		t.Error(err)
	}
	return st.Ino
}

func TestSessionsThatEnd(t *testing.T) {
	for name, lines := range map[string][]string{
		"no JSON":          {"}{"},
		"answer to nobody": {`{"return": {}}`},
		"second greeting":  {greeting},
		"endless line":     {`{"event": "` + strings.Repeat("x", maxLine)},
		"QEMU is gone":     nil,
	} {
		t.Run(name, func(t *testing.T) {
			c, q := start(t)
			go func() {
				q.hear("query-status")
				for _, line := range lines {
					io.WriteString(q.conn, line+"\n") // the client may hang up first
				}
				q.conn.Close()
			}()
			if err := c.Run(t.Context(), "query-status", nil, nil); err == nil {
				t.Error("command succeeded")
			}
			<-c.Done()
			if c.Err() == nil {
				t.Error("session ended without an error")
			}
			if err := c.Run(t.Context(), "query-status", nil, nil); err == nil {
				t.Error("command succeeded after the end")
			}
		})
	}
}

func TestSilentQEMU(t *testing.T) {
	ours, _ := pair(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := New(ctx, ours); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want deadline exceeded", err)
	}
}

func describe(m message) string {
	id, refusal := "none", "none"
	if m.ID != nil {
		id = fmt.Sprint(*m.ID)
	}
	if m.Error != nil {
		refusal = fmt.Sprintf("%+v", *m.Error)
	}
	return fmt.Sprintf("%s|%s|%s|%s|%s|%s", m.Greeting, m.Event, m.Data, id, m.Return, refusal)
}

// FuzzParse: a message is of one kind, and the same each time it is read.
func FuzzParse(f *testing.F) {
	f.Add([]byte(greeting))
	f.Add([]byte(`{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}, "timestamp": {"seconds": 1, "microseconds": 2}}`))
	f.Add([]byte(`{"return": {}, "id": 1}`))
	f.Add([]byte(`{"id": 18446744073709551615, "error": {"class": "GenericError", "desc": "no"}}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, line []byte) {
		m, err := parse(line)
		if err != nil {
			return
		}
		again := describe(m)
		if m, err = parse(append([]byte(" "), line...)); err != nil || describe(m) != again {
			t.Errorf("%q is read in two ways: %s and %+v, %v", line, again, m, err)
		}
		if m.Greeting == nil && m.Event == "" && m.Return == nil && m.Error == nil {
			t.Errorf("%q is a message of no kind", line)
		}
	})
}
