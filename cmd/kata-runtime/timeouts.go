package main

import "time"

const (
	// dialTimeout limits how long the guest may take to open a console.
	dialTimeout = 10 * time.Second
	// versionTimeout limits how long a VMM may take to tell its version.
	versionTimeout = 5 * time.Second
)
