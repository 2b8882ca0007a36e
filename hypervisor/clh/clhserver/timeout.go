package clhserver

import "time"

const (
	// turnTimeout is how long the end of the server waits for an operation that
	// is being carried out.
	turnTimeout = 5 * time.Second
	// shutdownTimeout bounds the machine's own end.
	shutdownTimeout = 10 * time.Second
	// flushTimeout bounds the writing of the last events and answers.
	flushTimeout = time.Second
)
