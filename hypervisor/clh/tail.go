package clh

import (
	"strings"
	"sync"
	"unicode"
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
// was lost, as text that a log and a terminal can take.
func (t *tail) String() string {
	t.mu.Lock()
	text := string(t.buf[max(0, len(t.buf)-t.max):])
	lost := t.lost
	t.mu.Unlock()
	if _, rest, ok := strings.Cut(text, "\n"); ok && lost {
		text = rest
	}
	return plain(text)
}

// plain keeps lines and tabs, and makes a question mark of every other control
// character and of what is no UTF-8: a guest's words end in errors, which are sent
// as UTF-8, and on terminals, which would obey them.
func plain(text string) string {
	text = strings.ReplaceAll(strings.ToValidUTF8(text, "?"), "\r\n", "\n")
	return strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && unicode.IsControl(r) {
			return '?'
		}
		return r
	}, text)
}

// lastLines cuts text to its last n lines.
func lastLines(text string, n int) string {
	text = strings.TrimRight(text, "\r\n")
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
