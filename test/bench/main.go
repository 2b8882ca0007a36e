// Command bench measures and writes the tables of docs/performance.md: the
// phases of a pod's start on the real path, the shim's memory, and the module's
// Go benchmarks.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"time"

	"github.com/kata-cc/kata-cc/test/cluster"
)

const (
	begin = "<!-- bench -->\n"
	end   = "<!-- /bench -->\n"
)

func main() {
	out := flag.String("o", "", "document whose part between the bench marks is replaced; none: standard output")
	runs := flag.Int("runs", 10, "how many pods to measure")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	text, err := measure(ctx, *runs)
	if err == nil {
		err = write(*out, text)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func measure(ctx context.Context, runs int) (text string, err error) {
	var b strings.Builder
	paths, err := cluster.FindPaths()
	if err != nil {
		return "", err
	}
	vmm := paths.ChooseVMM(os.Getenv("VMM"))
	fmt.Fprintf(&b, "Measured on %s with %d processors (%s); virtual machine monitor `%s`.\n\n",
		time.Now().Format(time.DateOnly), runtime.NumCPU(), processor(), vmm.Path[strings.LastIndex(vmm.Path, "/")+1:])
	pods, err := measurePods(ctx, vmm, runs)
	if err != nil {
		return "", err
	}
	b.WriteString(pods)
	fmt.Fprintln(os.Stderr, "Go benchmarks")
	micro, err := goBenchmarks(ctx)
	if err != nil {
		return "", err
	}
	b.WriteString(micro)
	return b.String(), nil
}

func processor() string {
	out, err := exec.Command("sed", "-n", "s/^model name.*: //p", "/proc/cpuinfo").Output()
	model, _, _ := strings.Cut(string(out), "\n")
	if err != nil || model == "" {
		return runtime.GOARCH
	}
	return strings.Join(strings.Fields(model), " ")
}

func write(file, text string) error {
	if file == "" {
		fmt.Print(text)
		return nil
	}
	doc, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, ok1 := strings.Cut(string(doc), begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		return fmt.Errorf("%s has no lines %q and %q", file, begin, end)
	}
	return os.WriteFile(file, []byte(before+begin+text+end+after), 0o644)
}
