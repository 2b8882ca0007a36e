package sandbox

import "time"

// How long each thing may take before what comes next is tried. What an agent's
// request may take is agentclient's to say.
const (
	// defaultDialTimeout bounds the wait for the agent after Boot where Options
	// does not say otherwise.
	defaultDialTimeout = 45 * time.Second

	// leastShare is what a phase of a Create may take however little its share of
	// the time is: on a busy host anything may take that long.
	leastShare = 5 * time.Second

	// signalTimeout bounds one signal's way to the guest.
	signalTimeout = 10 * time.Second
	// killTimeout is how long a process may outlive a SIGKILL before its virtual
	// machine is stopped instead.
	killTimeout = 10 * time.Second
	// drainTimeout bounds how long the output of a process that is known to be
	// dead is still copied: a reader that went away must not hide the exit.
	drainTimeout = 3 * time.Second
	// stallTimeout is how long one write of output may wait for a reader before
	// the process is waited for beside it: it may have ended long ago.
	stallTimeout = 10 * time.Second
	// oomGrace is how long the exit of a container that something killed waits
	// for the news that it was the lack of memory.
	oomGrace = 250 * time.Millisecond
	// execGrace is how long the exit of a container waits for those of its execs.
	execGrace = 2 * time.Second

	// lastWordsTimeout bounds how long an exit waits for the container's
	// termination log.
	lastWordsTimeout = 2 * time.Second
	// fitTimeout bounds a resize that nobody waits for the success of.
	fitTimeout = 10 * time.Second
	// removeTimeout bounds RemoveContainer.
	removeTimeout = 20 * time.Second
	// destroyTimeout bounds DestroySandbox, a courtesy to the guest before its
	// machine is stopped anyway.
	destroyTimeout = 3 * time.Second
	// publishTimeout bounds how long a teardown waits for the exits of all
	// processes to be published. They are cut short, so this is never reached
	// unless a reader blocks.
	publishTimeout = drainTimeout + 2*time.Second

	// hookTimeout bounds a hook that has no limit of its own; hookGrace is how long
	// its output is waited for when it has ended.
	hookTimeout = time.Minute
	hookGrace   = time.Second

	// linkTimeout bounds how long the guest is asked again to configure a NIC that
	// was plugged just now; linkPause is the pause between.
	linkTimeout = 5 * time.Second
	linkPause   = 50 * time.Millisecond

	// oomPause is the least time between two requests for out-of-memory events,
	// whatever the guest answers.
	oomPause = 100 * time.Millisecond

	// checkInterval is the pause between two health checks of a running agent;
	// checkFailures failed ones in a row end the sandbox.
	checkInterval = 10 * time.Second
	checkFailures = 3

	// reapTimeout bounds what `delete` does from the state on disk. containerd
	// gives it 5 s.
	reapTimeout = 3 * time.Second
	// cgroupTimeout bounds how long the removal of a cgroup waits for the kernel
	// to notice that its last process is gone.
	cgroupTimeout = time.Second
)
