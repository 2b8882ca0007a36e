package conformance

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

// shimBinary is the program under test, vmmBinary the VMM that it launches.
var shimBinary, vmmBinary string

// TestMain builds the shim and the VMM unless SHIM and CONFORMANCE_VMM name
// others. The VMM is a program of its own because a small one starts sooner than
// this binary would.
func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "conformance")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	for _, p := range []struct {
		path          *string
		variable, src string
	}{
		{&shimBinary, "SHIM", "cmd/containerd-shim-kata-cc-v2"},
		{&vmmBinary, "CONFORMANCE_VMM", "hypervisor/clh/clhserver/memory/clh-memory"},
	} {
		if *p.path = os.Getenv(p.variable); *p.path != "" {
			continue
		}
		*p.path = filepath.Join(dir, filepath.Base(p.src))
		if err := build(*p.path, p.src); err != nil {
			fmt.Fprintf(os.Stderr, "build %s: %v\n", p.src, err)
			return 1
		}
	}
	flag.Parse()
	if !given("test.parallel") { // most stories wait, and cells take turns by themselves
		if err := flag.Set("test.parallel", strconv.Itoa(room)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	code := m.Run()
	if !reportCells() && code == 0 {
		code = 1
	}
	return code
}

// given reports whether a flag is on the command line.
func given(name string) bool {
	found := false
	flag.Visit(func(f *flag.Flag) { found = found || f.Name == name })
	return found
}

// build makes one of our programs as it is shipped.
func build(path, src string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "github.com/kata-cc/kata-cc/"+src)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return cmd.Run()
}
