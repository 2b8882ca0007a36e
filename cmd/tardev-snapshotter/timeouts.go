package main

import "time"

const (
	// stopTimeout is how long requests may go on after a signal to stop, unless
	// chosen otherwise.
	stopTimeout = 10 * time.Second
	// metricsTimeout bounds a request for metrics, and the wait for one at the end.
	metricsTimeout = 10 * time.Second
)
