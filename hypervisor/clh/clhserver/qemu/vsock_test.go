package qemu

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// random is an endless stream that two readers can be compared by.
func random(seed uint64) io.Reader {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	return rand.NewChaCha8(key)
}

// echoed sends n random bytes to the guest's echo port, and fails unless they
// come back.
func (g *guest) echoed(seed uint64, n int64) error {
	conn, err := dialVsock(g.t.Context(), g.socket, 7)
	if err != nil {
		return fmt.Errorf("stream %d: dial: %w", seed, err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(2 * time.Minute))
	sent, got := sha256.New(), sha256.New()
	var both sync.WaitGroup
	var sendErr error
	both.Go(func() { _, sendErr = io.Copy(io.MultiWriter(conn, sent), io.LimitReader(random(seed), n)) })
	_, err = io.CopyN(got, conn, n)
	both.Wait()
	switch {
	case sendErr != nil:
		return fmt.Errorf("stream %d: send: %w", seed, sendErr)
	case err != nil:
		return fmt.Errorf("stream %d: receive: %w", seed, err)
	case string(sent.Sum(nil)) != string(got.Sum(nil)):
		return fmt.Errorf("stream %d: what came back is not what was sent", seed)
	}
	return nil
}

func TestManyStreams(t *testing.T) {
	g := bootGuest(t, nil)
	g.dial().Close()
	var streams sync.WaitGroup
	for i := range uint64(20) {
		streams.Go(func() {
			for j := range uint64(3) {
				if err := g.echoed(i*10+j, 1<<20); err != nil {
					t.Error(err)
				}
			}
		})
		streams.Go(func() { // hangs up in the middle, again and again
			for range 10 {
				conn, err := dialVsock(t.Context(), g.socket, 7)
				if err != nil {
					t.Errorf("dial: %v", err)
					return
				}
				io.CopyN(conn, random(i), 100_000)
				io.CopyN(io.Discard, conn, int64(rand.IntN(100_000)))
				conn.Close()
			}
		})
	}
	streams.Wait()
	if err := g.echoed(1, 1<<16); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestStreamEndsPassThrough(t *testing.T) {
	g := bootGuest(t, nil)
	g.dial().Close()
	conn, err := dialVsock(t.Context(), g.socket, 7)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	fmt.Fprint(conn, "the last words")
	conn.(*net.UnixConn).CloseWrite()
	if got, err := io.ReadAll(conn); err != nil || string(got) != "the last words" {
		t.Errorf("read %q, %v; want the last words and the end", got, err)
	}
}

func BenchmarkVsockThroughput(b *testing.B) {
	g := bootGuest(b, nil)
	g.dial().Close()
	const n = 8 << 20
	b.SetBytes(n)
	for b.Loop() {
		if err := g.echoed(1, n); err != nil {
			b.Fatal(err)
		}
	}
}
