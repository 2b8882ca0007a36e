package process

import "time"

const (
	// DrainTime is how long a stream may be silent after its process has ended
	// before it counts as ended too, though something still holds it open.
	DrainTime = 500 * time.Millisecond

	// LingerTime is how long others may go on writing to the streams of a process
	// that has ended.
	LingerTime = 10 * time.Second

	// MaxRead is the most bytes one read returns.
	MaxRead = 64 << 10
)
