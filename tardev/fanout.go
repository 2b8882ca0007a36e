package tardev

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

const (
	copySize  = 1 << 20   // bytes of one buffer
	ioSize    = 128 << 10 // bytes read or written at once where more gains nothing
	copyAhead = 8         // buffers in flight
)

// buffer is what the sinks of a fanOut share until the last has read it.
type buffer struct {
	data  []byte // filled part of store
	store []byte
	users atomic.Int32
}

// buffers keeps buffers between layers.
var buffers = sync.Pool{New: func() any { return &buffer{store: make([]byte, copySize)} }}

// fanOut copies src to all sinks, each of which works at its own pace, up to
// copyAhead buffers behind the fastest. It returns the bytes read and the first
// error of src, of a sink or of ctx.
func fanOut(ctx context.Context, src io.Reader, sinks ...io.Writer) (int64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	free := make(chan *buffer, copyAhead)
	for range copyAhead {
		free <- nil // to be taken from the pool if it is needed
	}
	lanes := make([]chan *buffer, len(sinks))
	var wg sync.WaitGroup
	for i, sink := range sinks {
		lanes[i] = make(chan *buffer, copyAhead) // never full: there are no more buffers
		wg.Go(func() {
			for b := range lanes[i] {
				if ctx.Err() == nil {
					if _, err := sink.Write(b.data); err != nil {
						cancel(err)
					}
				}
				if b.users.Add(-1) == 0 {
					free <- b
				}
			}
		})
	}
	total, err := feed(ctx, src, free, lanes)
	for _, lane := range lanes {
		close(lane)
	}
	wg.Wait()
	close(free)
	for b := range free {
		if b != nil {
			buffers.Put(b)
		}
	}
	if cause := context.Cause(ctx); err == nil && cause != nil {
		err = cause
	}
	return total, err
}

// feed reads src into free buffers and gives each to all lanes.
func feed(ctx context.Context, src io.Reader, free <-chan *buffer, lanes []chan *buffer) (total int64, err error) {
	for {
		var b *buffer
		select {
		case b = <-free:
		case <-ctx.Done():
			return total, context.Cause(ctx)
		}
		if err := context.Cause(ctx); err != nil {
			return total, err
		}
		if b == nil {
			b = buffers.Get().(*buffer)
		}
		n, err := fill(src, b.store)
		total += int64(n)
		if n > 0 {
			b.data = b.store[:n]
			b.users.Store(int32(len(lanes)))
			for _, lane := range lanes {
				lane <- b
			}
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, fmt.Errorf("read layer at %d of its tar: %w", total, err)
		}
	}
}

// fill reads until p is full. Unlike io.ReadFull it keeps apart the end of src and
// an end that src found too early, as decompressors do.
func fill(src io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var got int
		got, err = src.Read(p[n:])
		n += got
	}
	return n, err
}
