package clh

import (
	"strings"
	"sync"
)

// tail keeps the last bytes written to it.
type tail struct {
	max int

	mu   sync.Mutex
	buf  []byte // at most twice max, so that a write rarely moves it
	lost bool   // something before buf
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p[max(0, len(p)-t.max):]...)
	t.lost = t.lost || len(t.buf) > t.max || len(p) > t.max
	if len(t.buf) > 2*t.max {
		t.buf = append(t.buf[:0], t.buf[len(t.buf)-t.max:]...)
	}
	return len(p), nil
}

// String is what was kept, from the first whole line on where the beginning
// was lost.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := string(t.buf[max(0, len(t.buf)-t.max):])
	if _, rest, ok := strings.Cut(text, "\n"); ok && t.lost {
		return rest
	}
	return text
}

// lastLines cuts text to its last n lines.
func lastLines(text string, n int) string {
	text = strings.TrimRight(text, "\r\n")
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
