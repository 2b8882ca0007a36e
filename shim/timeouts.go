package shim

import "time"

// How long each thing may take before what comes next is tried.
const (
	// shutdownTimeout bounds the stop of the sandbox when the shim is to end.
	// containerd waits 3 s for the answer to Shutdown and runs delete then.
	shutdownTimeout = 15 * time.Second
	// replyDelay is how long the server outlives its answer to Shutdown: ttrpc
	// tells nobody when an answer is out.
	replyDelay = 20 * time.Millisecond

	// monitorTimeout bounds the reading of a request about a volume, and how long a
	// connection may wait for the next.
	monitorTimeout = 10 * time.Second

	// forwardTimeout bounds one attempt to hand an event to containerd.
	forwardTimeout = 5 * time.Second
	// retryMin and retryMax bound the pause between two attempts, which doubles.
	retryMin = 100 * time.Millisecond
	retryMax = 5 * time.Second
	// flushTimeout bounds how long an ending shim tries to get rid of its events. A
	// delete waits a little longer for the shim's end, and has 5 s in all.
	flushTimeout = 2500 * time.Millisecond

	// readerTimeout bounds the wait for somebody to open a fifo for reading
	// before a process is started; readerPoll is the pause between two looks.
	readerTimeout = 2 * time.Second
	readerPoll    = 2 * time.Millisecond

	// loggerReady bounds the wait for a logging binary to say that it is ready,
	// loggerDrain that for its end after the last output, loggerStop that after
	// a SIGTERM.
	loggerReady = 10 * time.Second
	loggerDrain = 5 * time.Second
	loggerStop  = 2 * time.Second
)
