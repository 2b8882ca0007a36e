package cgroup

import (
	"strconv"
	"strings"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

// ParseTable reads lines "key number", as in memory.stat; other lines are skipped.
func ParseTable(data string) map[string]uint64 {
	table := make(map[string]uint64)
	for line := range strings.Lines(data) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseUint(value, 10, 64); err == nil && key != "" {
			table[key] = n
		}
	}
	return table
}

// ParseIO reads io.stat, lines "major:minor key=number ...", one entry for each
// key that is a counter.
func ParseIO(data string) []*agentpb.BlkioStatsEntry {
	var entries []*agentpb.BlkioStatsEntry
	for line := range strings.Lines(data) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		ma, mi, _ := strings.Cut(fields[0], ":")
		major, err1 := strconv.ParseUint(ma, 10, 32)
		minor, err2 := strconv.ParseUint(mi, 10, 32)
		if err1 != nil || err2 != nil {
			continue
		}
		for _, f := range fields[1:] {
			key, value, _ := strings.Cut(f, "=")
			op, ok := ioOps[key]
			if n, err := strconv.ParseUint(value, 10, 64); ok && err == nil {
				entries = append(entries, &agentpb.BlkioStatsEntry{Major: major, Minor: minor, Op: op, Value: n})
			}
		}
	}
	return entries
}

// ioOps is how the protocol names the counters of io.stat.
var ioOps = map[string]string{
	"rbytes": "read", "wbytes": "write", "rios": "rios", "wios": "wios", "dbytes": "dbytes", "dios": "dios",
}
