package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestHeeds(t *testing.T) {
	// SIGTERM is 15: bit 14.
	for status, want := range map[string]bool{
		"SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nSigCgt:\t0000000000000000\n": false,
		"SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nSigCgt:\t0000000000004000\n": true,
		"SigBlk:\t0000000000004000\nSigIgn:\t0000000000000000\nSigCgt:\t0000000000000000\n": true,
		"SigCgt:\tfffffffffffbbfff\n": false,
		"SigCgt:\tnonsense\n":         true, // better a signal too weak
		"SigPnd:\t0000000000004000\n": false,
	} {
		if got := heedsIn([]byte(status), unix.SIGTERM); got != want {
			t.Errorf("%q: %v, want %v", status, got, want)
		}
	}
}

func TestExiting(t *testing.T) {
	for stat, want := range map[string]bool{
		"7 (pause) S 1 7 7 0 -1 4194560 0 0 0 0":        false,
		"7 (pause) S 1 7 7 0 -1 4228108 0 0 0 0":        true,
		"7 (a) S 1 1 1 1 4) S 1 7 7 0 -1 4194560 0 0 0": false,
		"": true,
		"7 (pause) S 1 7 7 0 -1 nonsense 0 0 0 0": true,
	} {
		if got := exitingIn([]byte(stat)); got != want {
			t.Errorf("%q: %v, want %v", stat, got, want)
		}
	}
}

func FuzzLogged(f *testing.F) {
	f.Add([]byte(`{"msg":"a","level":"error"}` + "\n" + `{"msg":"b"}` + "\nnonsense\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if strings.HasPrefix(logged(data), "; ") {
			t.Errorf("%q has an empty message", data)
		}
	})
}

func TestLogged(t *testing.T) {
	if got := logged([]byte(`{"msg":"a","level":"error"}` + "\n" + `{"msg":"b"}` + "\nnonsense\n")); got != "a; b" {
		t.Errorf("got %q", got)
	}
}

func TestMissingProgram(t *testing.T) {
	rootfs := t.TempDir()
	if err := os.MkdirAll(filepath.Join(rootfs, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(rootfs, "bin/there"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/bin/there", filepath.Join(rootfs, "bin/link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/no/target", filepath.Join(rootfs, "bin/dangling")); err != nil {
		t.Fatal(err)
	}
	for program, missing := range map[string]bool{
		"there": false, "link": false, "/bin/link": false, "./bin/there": false, "dangling": true, "nothing": true, "/bin/sh": true,
	} {
		p := &specs.Process{Args: []string{program}, Cwd: "/", Env: []string{"A=b", "PATH=/usr/bin:/bin"}}
		err := missingProgram(&runtimeError{said: fmt.Sprintf("executable file `%s` not found", program), err: errors.New("exit status 1")}, rootfs, p)
		if got := strings.Contains(err.Error(), "the file "+program+" was not found") && errdefs.IsNotFound(err); got != missing {
			t.Errorf("%s: error is %v", program, err)
		}
	}
	other := errors.New("x")
	if err := missingProgram(other, rootfs, &specs.Process{Args: []string{"nothing"}}); err != other {
		t.Errorf("another failure became %v", err)
	}
}

func TestCandidates(t *testing.T) {
	for program, want := range map[string][]string{
		"sh":     {"/usr/bin/sh", "/bin/sh"},
		"/x/sh":  {"/x/sh"},
		"./a/sh": {"/srv/a/sh"},
	} {
		got := candidates(&specs.Process{Args: []string{program}, Cwd: "/srv", Env: []string{"PATH=/usr/bin:/bin"}})
		if !slices.Equal(got, want) {
			t.Errorf("%s may be %v, want %v", program, got, want)
		}
	}
}
