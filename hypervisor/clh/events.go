package clh

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
)

// event is an object of the VMM's event stream, as far as it is used.
type event struct {
	Source     string `json:"source"`
	Event      string `json:"event"`
	Properties struct {
		ID    string `json:"id"`
		Event string `json:"event"`
	} `json:"properties"`
}

// maxEvent is the longest event taken, in bytes; real ones have a few hundred.
const maxEvent = 64 << 10

// readEvents calls f for each event until the stream ends. An event is ended by
// an empty line. The VMM loses output rather than wait, so what cannot be read
// is skipped up to the next empty line.
func readEvents(r io.Reader, f func(event)) error {
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxEvent)
	s.Split(splitEvents)
	for s.Scan() {
		text := s.Bytes()
		// After a loss the end of an event may be followed by a whole one.
		if i := bytes.LastIndex(text, []byte("\n{")); i >= 0 && !json.Valid(text) {
			text = text[i+1:]
		}
		var e event
		if json.Unmarshal(text, &e) == nil {
			f(e)
		}
	}
	return s.Err()
}

func splitEvents(data []byte, atEOF bool) (advance int, token []byte, err error) {
	if i := bytes.Index(data, []byte("\n\n")); i >= 0 {
		return i + 2, data[:i], nil
	}
	if len(data) >= maxEvent { // no event: drop it and find the next
		return len(data) - 1, nil, nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}
