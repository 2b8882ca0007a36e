package clhserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

// kind is what an operation failed of, as far as a status code depends on it.
type kind int

const (
	other kind = iota
	notCreated
	unknownDevice
	duplicate
	pending // of a resize: processors are still being let go of
	invalid
	badRequest // found before the operation ran
)

// failure is an operation's error as a client sees it.
type failure struct {
	kind kind
	text string
}

func (f *failure) Error() string { return f.text }

func fail(k kind, format string, a ...any) error {
	return &failure{k, fmt.Sprintf(format, a...)}
}

var (
	errNotCreated = fail(notCreated, "VM is not created")
	errNotRunning = fail(other, "VM is not running")
)

// status is the code that answers err.
func (p Profile) status(err error) int {
	var f *failure
	if !errors.As(err, &f) {
		return http.StatusInternalServerError
	}
	switch f.kind {
	case notCreated:
		return p.NotCreated
	case unknownDevice:
		return p.UnknownDevice
	case duplicate:
		return p.Duplicate
	case invalid:
		return p.Invalid
	case pending:
		return p.Pending
	case badRequest:
		return http.StatusBadRequest
	default:
		return http.StatusInternalServerError
	}
}

// body is what the answer to err says: the innermost reason as plain text up to
// version 46, the whole chain as a JSON array from 47 on.
func (p Profile) body(operation string, err error) []byte {
	if !p.ReasonList {
		return []byte(err.Error())
	}
	reasons := []string{err.Error()}
	if f := (*failure)(nil); !errors.As(err, &f) || f.kind != badRequest {
		reasons = []string{"Error from API", "The operation " + operation + " failed", err.Error()}
	}
	b, _ := json.Marshal(reasons) // strings cannot fail
	return b
}
