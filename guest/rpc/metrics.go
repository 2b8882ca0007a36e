package rpc

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// metrics writes the agent's memory and the guest's memory and load.
func metrics() (string, error) {
	var b strings.Builder
	gauge := func(name, labels, help string, value float64) {
		if help != "" {
			fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s gauge\n", name, help, name)
		}
		fmt.Fprintf(&b, "%s%s %s\n", name, labels, strconv.FormatFloat(value, 'g', -1, 64))
	}
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return "", err
	}
	if f := strings.Fields(string(statm)); len(f) > 1 {
		pages, _ := strconv.ParseFloat(f[1], 64)
		gauge("kata_agent_process_resident_memory_bytes", "", "Resident memory of the agent in bytes.", pages*float64(os.Getpagesize()))
	}
	meminfo, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return "", err
	}
	help := "Memory of the guest in bytes, as /proc/meminfo names it."
	for line := range strings.Lines(string(meminfo)) {
		key, rest, _ := strings.Cut(line, ":")
		f := strings.Fields(rest)
		if len(f) != 2 || f[1] != "kB" {
			continue
		}
		n, _ := strconv.ParseFloat(f[0], 64)
		gauge("kata_guest_meminfo", fmt.Sprintf("{item=%q}", strings.ToLower(key)), help, n*1024)
		help = ""
	}
	loadavg, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "", err
	}
	help = "Load average of the guest."
	for i, f := range strings.Fields(string(loadavg)) {
		if i == 3 {
			break
		}
		n, _ := strconv.ParseFloat(f, 64)
		gauge("kata_guest_load", fmt.Sprintf("{item=%q}", []string{"load1", "load5", "load15"}[i]), help, n)
		help = ""
	}
	return b.String(), nil
}
