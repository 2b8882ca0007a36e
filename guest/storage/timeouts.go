package storage

import "time"

const (
	// sizeTimeout bounds the wait for a device to have grown.
	sizeTimeout = 10 * time.Second
	// sizePeriod is the pause between two looks at its size.
	sizePeriod = 10 * time.Millisecond
)
