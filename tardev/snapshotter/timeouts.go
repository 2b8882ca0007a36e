package snapshotter

import "time"

// busyTimeout is how long a Remove waits for a request that works on the snapshot.
const busyTimeout = 10 * time.Second
