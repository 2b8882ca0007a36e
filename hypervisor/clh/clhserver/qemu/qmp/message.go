package qmp

import (
	"encoding/json"
	"fmt"
)

// Event is something that happened in QEMU by itself, as its reference of QMP
// events describes it.
type Event struct {
	Name string          // such as "SHUTDOWN"
	Data json.RawMessage // the event's data object; nil if it has none
}

// Error is QEMU's refusal of a command.
type Error struct {
	Command string `json:"-"`
	Class   string `json:"class"` // "GenericError", "DeviceNotFound", ...
	Desc    string `json:"desc"`  // for people
}

func (e *Error) Error() string {
	return fmt.Sprintf("QMP %s: %s", e.Command, e.Desc)
}

// message is any line that QEMU sends: a greeting, an event, or the answer to a
// command.
type message struct {
	Greeting json.RawMessage `json:"QMP"`
	Event    string          `json:"event"`
	Data     json.RawMessage `json:"data"`
	ID       *uint64         `json:"id"`
	Return   json.RawMessage `json:"return"`
	Error    *Error          `json:"error"`
}

// parse reads one line of QEMU's. Exactly one of Greeting, Event, Return and
// Error is set in what it returns.
func parse(line []byte) (message, error) {
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return message{}, fmt.Errorf("parse QMP message: %w", err)
	}
	kinds := 0
	for _, set := range []bool{m.Greeting != nil, m.Event != "", m.Return != nil, m.Error != nil} {
		if set {
			kinds++
		}
	}
	if kinds != 1 {
		return message{}, fmt.Errorf("parse QMP message: it is %d of greeting, event, return and error, want one", kinds)
	}
	return m, nil
}

// command is what we send. QEMU repeats the id in its answer.
type command struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments,omitempty"`
	ID        uint64 `json:"id"`
}
