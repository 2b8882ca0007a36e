package vsock

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// vmm listens and answers each connection with serve.
func vmm(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "v.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return path
}

func TestDialLeavesBytesBehindTheReplyToTheCaller(t *testing.T) {
	path := vmm(t, func(c net.Conn) {
		defer c.Close()
		line, _ := ReadLine(c)
		if port, err := ParseConnect(line); err != nil || port != 1024 {
			return
		}
		c.Write([]byte("OK 1073741824\n# login")) // in one write, as a shell's prompt does
	})
	c, err := Dial(t.Context(), path, 1024)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, _ := io.ReadAll(c); string(got) != "# login" {
		t.Errorf("read %q after the handshake", got)
	}
}

func TestDialRefused(t *testing.T) {
	for name, serve := range map[string]func(net.Conn){
		"closed":       func(c net.Conn) { ReadLine(c); c.Close() },
		"closed early": func(c net.Conn) { ReadLine(c); c.Write([]byte("OK 10")); c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Dial(t.Context(), vmm(t, serve), 1); !errdefs.IsUnavailable(err) {
				t.Errorf("error is %v, want unavailable", err)
			}
		})
	}
	t.Run("no socket", func(t *testing.T) {
		if _, err := Dial(t.Context(), filepath.Join(t.TempDir(), "none"), 1); !errdefs.IsUnavailable(err) {
			t.Errorf("error is %v, want unavailable", err)
		}
	})
	t.Run("nonsense", func(t *testing.T) {
		path := vmm(t, func(c net.Conn) { c.Write(bytes.Repeat([]byte("x"), 100)) })
		if _, err := Dial(t.Context(), path, 1); err == nil {
			t.Error("no error")
		}
	})
}

func TestDialEndsWithItsContext(t *testing.T) {
	path := vmm(t, func(c net.Conn) { io.Copy(io.Discard, c); c.Close() }) // a guest without a driver yet
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Dial(ctx, path, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v, want deadline exceeded", err)
	}
}

// FuzzReply: only "OK <number>" is taken, and nothing behind the newline is
// read, however the bytes are cut.
func FuzzReply(f *testing.F) {
	for _, s := range []string{"OK 1073741824\n", "OK 1\nrest", "", "OK\n", "ok 5\n", "OK -1\n", "\n", "CONNECT 5\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		line, err := ReadLine(r)
		if err != nil {
			return
		}
		if i := bytes.IndexByte(in, '\n'); len(line) != i+1 || r.Len() != len(in)-len(line) {
			t.Fatalf("read %q of %q, %d bytes left", line, in, r.Len())
		}
		n, err := number(line, "OK")
		if err == nil && !bytes.EqualFold(bytes.TrimLeft(line[2:], " 0"), bytes.TrimLeft(Reply(n)[2:], " 0")) {
			t.Fatalf("took %q as %d", line, n)
		}
	})
}
