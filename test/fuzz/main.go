// Command fuzz runs every fuzz target of the module for a while, one after
// another: `go test -fuzz` takes one at a time.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"time"
)

var target = regexp.MustCompile(`(?m)^func (Fuzz\w+)\(`)

func main() {
	each := flag.Duration("time", 10*time.Second, "how long to run each target")
	flag.Parse()
	if err := run(*each); err != nil {
		fmt.Fprintln(os.Stderr, "fuzz:", err)
		os.Exit(1)
	}
}

func run(each time.Duration) error {
	out, err := exec.Command("go", "list", "-json=ImportPath,Dir,TestGoFiles,XTestGoFiles", "./...").Output()
	if err != nil {
		return fmt.Errorf("go list: %w", err)
	}
	var errs []error
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			ImportPath, Dir           string
			TestGoFiles, XTestGoFiles []string
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return errors.Join(errs...)
		} else if err != nil {
			return err
		}
		for _, file := range append(p.TestGoFiles, p.XTestGoFiles...) {
			text, err := os.ReadFile(filepath.Join(p.Dir, file))
			if err != nil {
				return err
			}
			for _, m := range target.FindAllSubmatch(text, -1) {
				errs = append(errs, fuzz(p.ImportPath, string(m[1]), each))
			}
		}
	}
}

// fuzz runs one target. The go command's fuzzing may end, on a busy machine, by
// failing because its time is over, in the middle of an input that is as good as
// any other: such an end is no finding, and the target
// has another go.
func fuzz(pkg, name string, each time.Duration) error {
	for attempt := 1; ; attempt++ {
		fmt.Printf("=== %s %s\n", pkg, name)
		var said bytes.Buffer
		cmd := exec.Command("go", "test", "-run", "^$", "-fuzz", "^"+name+"$", "-fuzztime", each.String(), pkg)
		cmd.Stdout, cmd.Stderr = io.MultiWriter(os.Stdout, &said), os.Stderr
		err := cmd.Run()
		if err == nil {
			return nil
		}
		if attempt == attempts || !outOfTime(said.Bytes()) {
			return fmt.Errorf("%s %s: %w", pkg, name, err)
		}
	}
}

// attempts is how often a target is run that ends without a finding.
const attempts = 3

// outOfTime reports whether a failed run names the end of its time as the reason,
// and no input.
func outOfTime(said []byte) bool {
	return bytes.Contains(said, []byte("context deadline exceeded")) && !bytes.Contains(said, []byte("Failing input written to"))
}
