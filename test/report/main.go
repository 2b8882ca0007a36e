// Command report runs `go test` and says at the end what was skipped and why,
// what failed, and how many of each:
//
//	report [go test flags and packages] [-- more flags and packages]...
//
// The runs between the "--" follow one another, so that what is timed by an
// emulated processor does not share the machine with everything else.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
)

func main() {
	var r results
	ok := true
	for run := range splitRuns(os.Args[1:]) {
		if err := goTest(run, &r, os.Stdout); err != nil {
			fmt.Fprintf(os.Stderr, "go test %s: %v\n", strings.Join(run, " "), err)
			ok = false
		}
	}
	r.print(os.Stdout)
	if !ok || len(r.failed) > 0 {
		os.Exit(1)
	}
}

// splitRuns yields the arguments between the "--".
func splitRuns(args []string) func(func([]string) bool) {
	return func(yield func([]string) bool) {
		for {
			i := slices.Index(args, "--")
			if i < 0 {
				yield(args)
				return
			}
			if !yield(args[:i]) {
				return
			}
			args = args[i+1:]
		}
	}
}

func goTest(args []string, r *results, out io.Writer) error {
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	events, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	return errors.Join(r.read(events, out), cmd.Wait())
}

// event is one line of `go test -json` (go doc test2json).
type event struct {
	Action  string
	Package string
	Test    string
	Elapsed float64
	Output  string
}

type skip struct{ test, reason string }

// results is what has been heard of so far.
type results struct {
	passed  int
	failed  []string
	skipped []skip
	output  map[string][]string // of tests that have not ended, by package and name
}

// read takes events until the stream ends; packages and failures are told at
// once.
func (r *results) read(events io.Reader, out io.Writer) error {
	r.output = map[string][]string{}
	for lines := bufio.NewReader(events); ; {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil { // a line of the go command itself
				fmt.Fprintf(out, "%s", line)
			} else {
				r.take(e, out)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (r *results) take(e event, out io.Writer) {
	name := strings.TrimPrefix(e.Package, "github.com/kata-cc/kata-cc/")
	key := name + " " + e.Test
	switch e.Action {
	case "output", "build-output":
		r.output[key] = append(r.output[key], e.Output)
		return
	case "pass", "fail", "skip":
	default:
		return
	}
	said := r.output[key]
	delete(r.output, key)
	if e.Test == "" {
		r.endPackage(e, name, said, out)
		return
	}
	switch e.Action {
	case "pass":
		r.passed++
	case "skip":
		r.skipped = append(r.skipped, skip{key, reason(said)})
	case "fail":
		r.failed = append(r.failed, key)
		fmt.Fprintf(out, "%s\n", strings.Join(said, ""))
	}
}

func (r *results) endPackage(e event, name string, said []string, out io.Writer) {
	switch e.Action {
	case "pass":
		fmt.Fprintf(out, "ok    %-40s %6.1fs\n", name, e.Elapsed)
		for _, line := range said { // what a package has to say though it passed
			if text, ok := strings.CutPrefix(line, "note: "); ok {
				fmt.Fprintf(out, "      %s\n", strings.TrimSpace(text))
			}
		}
	case "fail":
		fmt.Fprintf(out, "%sFAIL  %-40s %6.1fs\n", strings.Join(said, ""), name, e.Elapsed)
		// A package that does not compile or panics has no test that failed.
		if !slices.ContainsFunc(r.failed, func(f string) bool { return strings.HasPrefix(f, name+" ") }) {
			r.failed = append(r.failed, name)
		}
	}
}

// reason is what a test gave to Skip: its last line of output that go test did
// not print itself, without the file and line before it.
func reason(said []string) string {
	for _, line := range slices.Backward(said) {
		text := strings.TrimSpace(line)
		if text == "" || strings.HasPrefix(text, "---") || strings.HasPrefix(text, "===") {
			continue
		}
		if _, after, ok := strings.Cut(text, ".go:"); ok {
			if _, after, ok = strings.Cut(after, ": "); ok {
				return after
			}
		}
		return text
	}
	return "no reason given"
}

func (r *results) print(out io.Writer) {
	if len(r.skipped) > 0 {
		byReason := map[string][]string{}
		for _, s := range r.skipped {
			byReason[s.reason] = append(byReason[s.reason], s.test)
		}
		fmt.Fprintln(out, "\nskipped:")
		for _, reason := range slices.Sorted(maps.Keys(byReason)) {
			fmt.Fprintf(out, "  %s:\n    %s\n", reason, strings.Join(byReason[reason], "\n    "))
		}
	}
	if len(r.failed) > 0 {
		fmt.Fprintf(out, "\nfailed:\n  %s\n", strings.Join(r.failed, "\n  "))
	}
	fmt.Fprintf(out, "\n%d passed, %d failed, %d skipped\n", r.passed, len(r.failed), len(r.skipped))
}
