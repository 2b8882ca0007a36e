package clh

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/containerd/errdefs"
)

// APIError is an answer of the VMM that says no. The reasons are for people:
// what to do about it follows from Status alone.
type APIError struct {
	Endpoint string   // "vm.add-disk"
	Status   int      // HTTP status
	Reasons  []string // outermost first; may be empty
}

func (e *APIError) Error() string {
	text := fmt.Sprintf("%s: status %d", e.Endpoint, e.Status)
	if len(e.Reasons) > 0 {
		text += ": " + strings.Join(e.Reasons, ": ")
	}
	return text
}

// Unwrap gives the errdefs class of the status.
func (e *APIError) Unwrap() error {
	switch e.Status {
	case http.StatusBadRequest:
		return errdefs.ErrInvalidArgument
	case http.StatusNotFound:
		return errdefs.ErrNotFound
	case http.StatusConflict:
		return errdefs.ErrAlreadyExists
	case http.StatusTooManyRequests:
		return errdefs.ErrResourceExhausted
	case http.StatusServiceUnavailable:
		return errdefs.ErrUnavailable
	default:
		return errdefs.ErrInternal
	}
}

const (
	maxReasons = 16
	maxReason  = 1024 // bytes of one reason
)

// newAPIError reads an error body: a JSON array of strings from version 47 on,
// plain text before.
func newAPIError(endpoint string, status int, body []byte) *APIError {
	e := &APIError{Endpoint: endpoint, Status: status}
	var list []string
	if json.Unmarshal(body, &list) != nil {
		list = []string{string(body)}
	}
	for _, r := range list {
		if r = printable(r); r != "" && len(e.Reasons) < maxReasons {
			e.Reasons = append(e.Reasons, r)
		}
	}
	return e
}

// printable makes one short line of foreign text.
func printable(s string) string {
	if len(s) > maxReason {
		s = s[:maxReason]
	}
	s = strings.ToValidUTF8(s, "\uFFFD")
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	s = strings.TrimSpace(s)
	for len(s) > maxReason { // replacement runes are longer than what they replace
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return s
}
