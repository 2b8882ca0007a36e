package clh

import "time"

const (
	// bootTimeout bounds vm.boot, during which the VMM answers nothing else.
	bootTimeout = 60 * time.Second
	// bootTimePerMiB is what vm.boot may take longer for each MiB of a protected
	// machine: guests of 64 GiB are known to take more than 90 s.
	bootTimePerMiB = 3 * time.Millisecond
	// apiTimeout bounds every other call that the VMM answers from memory.
	apiTimeout = 10 * time.Second
	// hotplugTimeout bounds vm.add-disk.
	hotplugTimeout = 10 * time.Second
	// unplugTimeout bounds the wait for the guest to let go of a device.
	unplugTimeout = 10 * time.Second
	// resizeTimeout bounds how long a resize is tried again while the guest still
	// lets go of processors; resizePause is the pause between.
	resizeTimeout = 5 * time.Second
	resizePause   = 50 * time.Millisecond
	// stopTimeout bounds each step of Stop: vmm.shutdown, SIGTERM.
	stopTimeout = 3 * time.Second
	// killTimeout bounds the wait for a process that got SIGKILL.
	killTimeout = 5 * time.Second
	// dyingTimeout is how long a broken connection waits to learn that the VMM
	// has died, which says more than the broken connection does.
	dyingTimeout = 200 * time.Millisecond
	// lastEventTimeout is how long the end of the process waits for the end of
	// its event stream, which says why.
	lastEventTimeout = 20 * time.Millisecond
	// drainTimeout is how long it takes at most until what the VMM has written
	// was read, where the end of the stream cannot tell.
	drainTimeout = 50 * time.Millisecond
	// offTimeout is how long a VMM whose guest is off has to exit by itself.
	offTimeout = time.Second
	// activateTimeout is how long a plug waits for the guest to take the disk
	// before it into use.
	activateTimeout = time.Second
	// treePeriod is how often the device tree is asked whether a device has
	// gone, in case its event was lost.
	treePeriod = time.Second
	// withdrawPeriod is how often the taking back of a disk is tried again.
	withdrawPeriod = 5 * time.Second
)
