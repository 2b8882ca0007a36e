package main

import "time"

const (
	specsTimeout     = 3 * time.Hour    // all specs, on an emulated processor
	interruptTimeout = 90 * time.Second // from the interrupt until critest is killed
)
