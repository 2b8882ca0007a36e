package process

import "time"

const (
	// DrainTime is how long a stream may be silent after its process has ended
	// before it counts as ended too, though something still holds it open.
	DrainTime = 500 * time.Millisecond

	// MaxRead is the most bytes one read returns.
	MaxRead = 64 << 10
)
