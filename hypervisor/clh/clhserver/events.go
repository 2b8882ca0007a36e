package clhserver

import (
	"encoding/json"
	"io"
	"sync"
	"time"
)

// Event is one object of the event monitor's stream: pretty-printed JSON, each
// followed by an empty line. Source: Cloud Hypervisor event_monitor/src/lib.rs.
type Event struct {
	Timestamp  Timestamp         `json:"timestamp"` // since the VMM's start
	Source     string            `json:"source"`    // "vmm", "vm", "virtio-device", "guest"
	Event      string            `json:"event"`
	Properties map[string]string `json:"properties"`
}

// Timestamp is a duration in two parts.
type Timestamp struct {
	Secs  int64 `json:"secs"`
	Nanos int64 `json:"nanos"`
}

// monitor writes events in the order in which they were sent. Like the original
// it loses some rather than let a slow reader hold up the machine.
type monitor struct {
	start time.Time
	done  chan struct{}

	mu     sync.Mutex
	queue  chan Event
	closed bool
}

// monitorQueue is how many events wait for a reader before one is lost.
const monitorQueue = 1024

func newMonitor(w io.Writer) *monitor {
	m := &monitor{start: time.Now(), queue: make(chan Event, monitorQueue), done: make(chan struct{})}
	go func() {
		defer close(m.done)
		for e := range m.queue {
			if w == nil {
				continue
			}
			b, _ := json.MarshalIndent(e, "", "  ")
			if _, err := w.Write(append(b, '\n', '\n')); err != nil {
				w = nil // nobody reads any more
			}
		}
	}()
	return m
}

func (m *monitor) send(source, event string, properties map[string]string) {
	d := time.Since(m.start)
	e := Event{Timestamp{int64(d / time.Second), int64(d % time.Second)}, source, event, properties}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return
	}
	select {
	case m.queue <- e:
	default:
	}
}

// close waits until what was sent has been written, but not for a reader that
// does not read.
func (m *monitor) close() {
	m.mu.Lock()
	if !m.closed {
		m.closed = true
		close(m.queue)
	}
	m.mu.Unlock()
	select {
	case <-m.done:
	case <-time.After(flushTimeout):
	}
}
