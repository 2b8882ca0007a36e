package sandbox

import (
	"context"
	"errors"
	"io"
)

// Stdio is the host's side of a process's streams. A nil stream is not
// connected: what the process writes there stays unread in the guest, or its
// standard input is empty. A process with a terminal has no Stderr.
type Stdio struct {
	Stdin          Input
	Stdout, Stderr io.WriteCloser
	Terminal       bool
}

// Input is where a process's standard input comes from.
type Input interface {
	io.ReadCloser
	// End makes Read return io.EOF once what was written so far has been read.
	// Until then a writer that goes away does not end the input: another may come.
	End()
}

// OpenStdio connects a process's streams. It is called once, before the process
// is started in the guest.
type OpenStdio func(ctx context.Context) (*Stdio, error)

func (o *Stdio) closeOutputs() error {
	var errs []error
	for _, c := range []io.Closer{o.Stdout, o.Stderr} {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}

func (o *Stdio) close() error {
	err := o.closeOutputs()
	if o.Stdin != nil {
		err = errors.Join(err, o.Stdin.Close())
	}
	return err
}
