package agentclient

import (
	"context"
	"errors"
	"strings"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
)

// Agents written in Rust answer most failures with the code INTERNAL and the
// debug form of an error, so that only the text tells one from another. This
// file is the one place that reads such texts.

// unknownProcess lists what agents say of a container or process they do not
// have. The first matches "Invalid container id" and "invalid container id", but
// not "invalid container ID", which is said of a malformed one.
var unknownProcess = []string{
	"nvalid container id",
	"InvalidContainerId",
	"Invalid exec id",
	"InvalidExecId",
	"cannot find init process",
	"InitProcessNotFound",
	"Process not found",
}

// class gives the errdefs class of an answer.
func class(code codes.Code, text string) error {
	switch code {
	case codes.PermissionDenied:
		return errdefs.ErrPermissionDenied
	case codes.Unimplemented:
		return errdefs.ErrNotImplemented
	case codes.DeadlineExceeded:
		return context.DeadlineExceeded
	case codes.Canceled:
		return context.Canceled
	case codes.AlreadyExists:
		return errdefs.ErrAlreadyExists
	case codes.FailedPrecondition:
		return errdefs.ErrFailedPrecondition
	case codes.ResourceExhausted:
		return errdefs.ErrResourceExhausted
	case codes.NotFound:
		if strings.Contains(text, "is not supported") {
			return errdefs.ErrNotImplemented
		}
		return errdefs.ErrNotFound
	}
	for _, s := range unknownProcess {
		if strings.Contains(text, s) {
			return errdefs.ErrNotFound
		}
	}
	switch {
	case strings.Contains(text, "exec_id") && strings.Contains(text, "already exists"):
		return errdefs.ErrAlreadyExists
	case strings.Contains(text, "service does not exist"):
		return errdefs.ErrNotImplemented
	case strings.Contains(text, "no tty"):
		return errdefs.ErrFailedPrecondition
	case code == codes.InvalidArgument:
		return errdefs.ErrInvalidArgument
	case code == codes.Unavailable:
		return errdefs.ErrUnavailable
	}
	return errdefs.ErrInternal
}

// IsNotFound reports whether the agent does not know the container or process.
func IsNotFound(err error) bool { return errdefs.IsNotFound(err) }

// IsUnsupported reports whether the agent lacks the request.
func IsUnsupported(err error) bool { return errdefs.IsNotImplemented(err) }

// IsDenied reports whether the guest's policy refused the request.
func IsDenied(err error) bool { return errdefs.IsPermissionDenied(err) }

// IsStreamEnd reports whether the error of a read or write says that nothing
// more will come through the stream: its end, a process that is gone, a policy
// that hides it, a lost connection. An end in doubt (see endInDoubt) counts.
func IsStreamEnd(err error) bool {
	if errors.Is(err, ErrGone) || IsNotFound(err) || IsDenied(err) || endInDoubt(err) {
		return true
	}
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	for _, s := range []string{"read meet eof", "cannot get stream reader", "Cannot get writer"} {
		if strings.Contains(e.Text, s) {
			return true
		}
	}
	return false
}

// endInDoubt reports whether the answer is the bare "eof" which agents of the
// azl line give to a read that was pending when the process ended, but also when
// its standard input was closed while it goes on.
func endInDoubt(err error) bool {
	var e *Error
	return errors.As(err, &e) && strings.Trim(e.Text, `"`) == "eof"
}

// maxText is how much of an agent's text is passed on, in bytes: it ends in logs
// and in the events of a cluster.
const maxText = 8 << 10

// readable strips what people do not want to read from the text of an agent: the
// quotes of a string's debug form, the backtrace, and what is too long.
func readable(text string) string {
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "..."
	}
	text, _, _ = strings.Cut(text, "\nStack backtrace:")
	if len(text) >= 2 && text[0] == '"' && text[len(text)-1] == '"' {
		text = text[1 : len(text)-1]
	}
	return strings.TrimSpace(text)
}
