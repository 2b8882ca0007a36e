package rpc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestParseVsock(t *testing.T) {
	for in, want := range map[string][2]uint32{
		"vsock://-1:1024": {math.MaxUint32, 1024}, "vsock://3:1": {3, 1},
		"vsock://:1024": {}, "vsock://1024": {}, "vsock://-2:1": {}, "vsock://1:4294967296": {}, "tcp://1:2": {}, "": {},
	} {
		cid, port, err := parseVsock(in)
		if cid != want[0] || port != want[1] || (err == nil) != (want[1] != 0) {
			t.Errorf("parseVsock(%q) = %d, %d, %v", in, cid, port, err)
		}
	}
}

func FuzzParseVsock(f *testing.F) {
	f.Add("vsock://-1:1024")
	f.Fuzz(func(t *testing.T, s string) {
		cid, port, err := parseVsock(s)
		if err != nil {
			return
		}
		again := fmt.Sprintf("vsock://%d:%d", cid, port)
		if c, p, err := parseVsock(again); c != cid || p != port || err != nil {
			t.Errorf("%q is %s, which is %d, %d, %v", s, again, c, p, err)
		}
	})
}

func TestListenReplacesAStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := Listen("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

func TestStatusOfErrors(t *testing.T) {
	timeout := fmt.Errorf("x: %w", context.DeadlineExceeded)
	for name, c := range map[string]struct {
		err  error
		want codes.Code
	}{
		"plain":                {errors.New("x"), codes.Internal},
		"class":                {fmt.Errorf("x: %w", errdefs.ErrAlreadyExists), codes.AlreadyExists},
		"joined class":         {errors.Join(errors.New("x"), fmt.Errorf("y: %w", errdefs.ErrNotFound)), codes.NotFound},
		"status":               {status.Error(codes.Unimplemented, "x"), codes.Unimplemented},
		"timeout":              {timeout, codes.DeadlineExceeded},
		"creation":             {creation(fmt.Errorf("x: %w", errdefs.ErrNotFound)), codes.Internal},
		"creation in a state":  {creation(fmt.Errorf("x: %w", errdefs.ErrFailedPrecondition)), codes.FailedPrecondition},
		"creation in no time":  {creation(timeout), codes.DeadlineExceeded},
		"network":              {invalidOrInternal(fmt.Errorf("x: %w", errdefs.ErrNotFound)), codes.Internal},
		"network, bad request": {invalidOrInternal(fmt.Errorf("x: %w", errdefs.ErrInvalidArgument)), codes.InvalidArgument},
	} {
		if got := status.Code(asStatus(c.err)); got != c.want {
			t.Errorf("%s: code is %v, want %v", name, got, c.want)
		}
	}
	if creation(nil) != nil || invalidOrInternal(nil) != nil {
		t.Error("success became an error")
	}
}

// frame is a frame of ttrpc with size bytes of payload.
func frame(kind byte, size int) []byte {
	f := make([]byte, frameHeader+size)
	binary.BigEndian.PutUint32(f, uint32(size))
	f[frameType] = kind
	return f
}

func FuzzFrames(f *testing.F) {
	f.Add(3, uint16(5), 7)
	f.Fuzz(func(t *testing.T, count int, size uint16, piece int) {
		count, piece = max(count, 0)%20, max(piece, 0)%100+1
		var wire []byte
		for range count {
			wire = append(append(wire, frame(typeResponse, int(size))...), frame(3, 1)...)
		}
		counter := frames{kind: typeResponse}
		for len(wire) > 0 { // however the bytes come
			n := min(piece, len(wire))
			counter.pass(wire[:n])
			wire = wire[n:]
		}
		if got := counter.seen.Load(); got != int64(count) {
			t.Errorf("counted %d frames of %d bytes, want %d", got, size, count)
		}
	})
}

func TestOnline(t *testing.T) {
	dir := t.TempDir()
	for name, state := range map[string]string{"cpu1": "0", "cpu2": "1", "cpu3": "0"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "online"), []byte(state+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []int{1, 1, 0} {
		if n, err := online(dir, "cpu[0-9]*", 1); n != want || err != nil {
			t.Errorf("%d brought into use, %v, want %d", n, err, want)
		}
	}
}
