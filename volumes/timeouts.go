package volumes

import "time"

const (
	// pollInterval is how often a volume that cannot be watched is looked at.
	pollInterval = 2 * time.Second
	// retryMin and retryMax bound the pause after an update that failed, which doubles.
	retryMin = time.Second
	retryMax = 30 * time.Second
)
