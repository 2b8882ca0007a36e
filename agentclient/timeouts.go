package agentclient

import "time"

// How long each thing may take before the client gives up. A context that ends
// earlier wins. WaitProcess, GetOOMEvent, ReadStdout, ReadStderr and WriteStdin
// block for as long as the guest wants and have no limit of their own.
const (
	// checkTimeout limits one Health.Check; a guest under emulation may be slow
	// to schedule its agent.
	checkTimeout = 30 * time.Second
	// requestTimeout limits every request that has no other limit.
	requestTimeout = 60 * time.Second
	// createContainerTimeout limits CreateContainer unless WithCreateTimeout
	// says otherwise: it mounts every layer of the container.
	createContainerTimeout = 60 * time.Second

	// attemptTimeout limits one dial with its first Check: the kernel may lose a
	// vsock connection made while the guest begins to listen, and leave it
	// unanswered for good.
	attemptTimeout = 10 * time.Second
	// redialMin and redialMax bound the pause between two attempts, which doubles.
	redialMin = 10 * time.Millisecond
	redialMax = 200 * time.Millisecond

	// rereadMin and rereadMax bound the pause after a read that gave nothing. An
	// agent may say so of the end of output, which costs a request per pause for as
	// long as the process runs, or of output that is hidden, of which no more than
	// a pipe per pause goes by.
	rereadMin = time.Millisecond
	rereadMax = 25 * time.Millisecond
	// rereadGrace is how long a read that was repeated after a doubtful end may
	// stay unanswered before the process is waited for beside it.
	rereadGrace = 200 * time.Millisecond
)
