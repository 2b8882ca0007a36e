package main

import "time"

const (
	// dialTimeout limits how long the guest may take to open a console.
	dialTimeout = 10 * time.Second
	// resizeTimeout limits how long a shim may take to let a volume grow.
	resizeTimeout = time.Minute
	// versionTimeout limits how long a VMM may take to tell its version.
	versionTimeout = 5 * time.Second
)
