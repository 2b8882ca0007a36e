package conformance

import (
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/semaphore"
)

// The fault matrix: one thing goes wrong in the life of a pod, at one place. What
// the requests of containerd answer then differs with the fault; that they answer
// in time and with a code, that the other containers of the pod go on answering,
// that what was started is also told to have ended, that delete may be repeated,
// and that nothing is left, does not.

// leastCells is how many cells each row of the matrix has at least. A row that
// shrinks fails the whole run.
var leastCells = map[string]int{
	"agent": 301, "vsock": 90, "VMM": 361, "network": 57, "layer file": 33, "disk": 42, "shim": 86, "containerd": 91,
}

// cells counts the cells that were run to their end, by row.
var cells struct {
	sync.Mutex
	ran map[string]int
}

// Cells run beside each other, within room: a cell that works takes its working
// share of it, one that mostly waits for a time-out a small one.
const (
	room    = 24
	working = 3
	waiting = 1
)

var inRoom = semaphore.NewWeighted(room)

// cell runs one cell of a row, beside others.
func cell(t *testing.T, row, name string, run func(t *testing.T)) {
	t.Helper()
	weighedCell(t, row, name, false, run)
}

// weighedCell is cell for one that may be known to wait.
func weighedCell(t *testing.T, row, name string, waits bool, run func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		weight := int64(working)
		if waits {
			weight = waiting
		}
		if err := inRoom.Acquire(t.Context(), weight); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { inRoom.Release(weight) }) // after the leak gate
		run(t)
		cells.Lock()
		defer cells.Unlock()
		if cells.ran == nil {
			cells.ran = map[string]int{}
		}
		cells.ran[row]++
	})
}

// reportCells tells how many cells were run, and reports false if a run of all
// tests ran fewer than there are.
func reportCells() bool {
	cells.Lock()
	defer cells.Unlock()
	if len(cells.ran) == 0 {
		return true
	}
	total, rows := 0, []string{}
	for _, row := range slices.Sorted(maps.Keys(cells.ran)) {
		total += cells.ran[row]
		rows = append(rows, fmt.Sprint(row, " ", cells.ran[row]))
	}
	fmt.Printf("note: %d cells of the fault matrix ran: %s\n", total, strings.Join(rows, ", "))
	if flag.Lookup("test.run").Value.String() != "" || flag.Lookup("test.skip").Value.String() != "" || testing.Short() {
		return true
	}
	ok := true
	for row, least := range leastCells {
		if cells.ran[row] < least {
			fmt.Printf("row %q of the fault matrix has %d cells, fewer than %d\n", row, cells.ran[row], least)
			ok = false
		}
	}
	return ok
}
