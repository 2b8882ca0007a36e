package qemu

import "time"

// The times after which this package gives up.
var (
	// startTimeout is for QEMU to load the kernel and to answer on QMP. It needs
	// 100 ms on an idle machine.
	startTimeout = 20 * time.Second
	// commandTimeout is for a QMP command whose caller waits longer than that.
	commandTimeout = 10 * time.Second
	// quitTimeout is for QEMU to end by itself before it is killed.
	quitTimeout = 2 * time.Second
	// releaseTimeout is for the host side of an unplugged device to be given back.
	releaseTimeout = 2 * time.Second
	// resetGap is within what time two resets are one; no guest boots that fast.
	resetGap = 100 * time.Millisecond
	// drainTimeout is for a console's reader to take the guest's last words.
	drainTimeout = time.Second
	// activationTimeout bounds how long a device is watched for its driver.
	activationTimeout = time.Minute
	// activationPoll is how often it is looked at.
	activationPoll = 10 * time.Millisecond
)
