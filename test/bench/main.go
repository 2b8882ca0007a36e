// Command bench measures and writes the tables of docs/performance.md: the
// phases of a pod's start on the real path, what a pod holds in memory, and the
// module's Go benchmarks.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/kata-cc/kata-cc/test/cluster"
)

func main() {
	out := flag.String("o", "", "document whose parts between the bench marks are replaced; none: standard output")
	runs := flag.Int("runs", 10, "how many pods to measure")
	only := flag.String("only", "", "measure the part pods, or parts, alone")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	for _, part := range []struct {
		name    string
		measure func(context.Context, int) (string, error)
	}{{"pods", measurePodsHere}, {"parts", goBenchmarks}} {
		if *only != "" && *only != part.name {
			continue
		}
		fmt.Fprintln(os.Stderr, "measuring", part.name)
		text, err := part.measure(ctx, *runs)
		if err == nil {
			err = write(*out, part.name, text)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
	}
}

func measurePodsHere(ctx context.Context, runs int) (string, error) {
	paths, err := cluster.FindPaths()
	if err != nil {
		return "", err
	}
	vmm := paths.ChooseVMM(os.Getenv("VMM"))
	pods, err := measurePods(ctx, vmm, runs)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("Measured on %s with %d processors (%s), whose load was %s in the last minute; virtual machine monitor `%s`.\n\n%s",
		time.Now().Format(time.DateOnly), runtime.NumCPU(), processor(), load(), filepath.Base(vmm.Path), pods), nil
}

// load is the load average of the last minute.
func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(text), " ")
	return first
}

func processor() string {
	out, err := exec.Command("sed", "-n", "s/^model name.*: //p", "/proc/cpuinfo").Output()
	model, _, _ := strings.Cut(string(out), "\n")
	if err != nil || model == "" {
		return runtime.GOARCH
	}
	return strings.Join(strings.Fields(model), " ")
}

// write replaces the part of a document between the marks of a name.
func write(file, part, text string) error {
	if file == "" {
		fmt.Print(text)
		return nil
	}
	doc, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	begin, end := "<!-- bench "+part+" -->\n", "<!-- /bench "+part+" -->\n"
	before, rest, ok1 := strings.Cut(string(doc), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		return fmt.Errorf("%s has no lines %q and %q", file, begin, end)
	}
	return os.WriteFile(file, []byte(before+begin+text+end+after), 0o644)
}
