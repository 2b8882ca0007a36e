package sandbox

import "time"

// Event is what happens to a process in its own time: a Started, Exited or
// OutOfMemory. Events reach Options.Events one after another; Started comes
// before Exited, and an exec's Exited before that of its container.
type Event interface{ event() }

// Started says that a process runs.
type Started struct {
	Container string
	Exec      string // empty: the container's init process
}

// Exited says that a process has ended and that its output was delivered.
type Exited struct {
	Container string
	Exec      string // empty: the container's init process
	Exit      Exit
}

// OutOfMemory says that a container lost a process to the lack of memory.
type OutOfMemory struct {
	Container string
}

func (Started) event()     {}
func (Exited) event()      {}
func (OutOfMemory) event() {}

// Exit is how and when a process ended.
type Exit struct {
	// Status is the exit code, 128 and the signal for a process that a signal
	// killed, or 255 if the machine was lost before the guest could tell.
	Status uint32
	At     time.Time
}

const (
	statusLost   = 255     // the machine died under the process
	statusKilled = 128 + 9 // the machine was stopped under the process
)
