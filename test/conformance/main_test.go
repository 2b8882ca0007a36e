package conformance

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

// shimBinary is the program under test.
var shimBinary string

// TestMain makes this binary the VMM that the shim launches, and builds the shim
// unless SHIM names one.
func TestMain(m *testing.M) {
	memory.Exec()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	shimBinary = os.Getenv("SHIM")
	if shimBinary == "" {
		dir, err := os.MkdirTemp("", "shim")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		shimBinary = filepath.Join(dir, "containerd-shim-kata-cc-v2")
		build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", shimBinary, "github.com/kata-cc/kata-cc/cmd/containerd-shim-kata-cc-v2")
		build.Env = append(os.Environ(), "CGO_ENABLED=0") // as it is shipped
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "build the shim:", err)
			return 1
		}
	}
	flag.Parse()
	if !given("test.parallel") { // most stories wait for programs that start and end
		if err := flag.Set("test.parallel", "8"); err != nil {
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
