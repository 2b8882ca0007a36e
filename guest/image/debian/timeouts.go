package debian

import "time"

const (
	// updateTimeout bounds one `apt-get update`: after apt's own limit of two
	// minutes for a silent connection, with its retries.
	updateTimeout = 10 * time.Minute
	// fetchTimeout bounds the download of one package (a kernel has 30 to 80 MB).
	fetchTimeout = 10 * time.Minute
	// queryTimeout bounds a question that apt answers from its lists.
	queryTimeout = 2 * time.Minute
)
