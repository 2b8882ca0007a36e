package cluster

import "time"

// How long this package waits, named after what gives up. An emulated processor
// is some twenty times slower than a real one, so nothing here is tight.
const (
	daemonReadyTimeout = 30 * time.Second // containerd or the snapshotter serves its socket
	daemonStopTimeout  = 15 * time.Second // from SIGTERM to SIGKILL
	commandTimeout     = 3 * time.Minute  // one command that a person would type
	waitDelay          = 5 * time.Second  // a command's grandchildren let go of its output
	closeTimeout       = 90 * time.Second // removal of everything
	drainTimeout       = 60 * time.Second // of that, removal of the pods
	goneTimeout        = 15 * time.Second // what a removed pod held disappears from the host
	pollInterval       = 100 * time.Millisecond
)
