package pause_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/guest/pause"
)

// The program gets to its last call, and has then done what it is for.
func TestProgram(t *testing.T) {
	program, err := pause.Program()
	if err != nil {
		t.Skip(err)
	}
	path := filepath.Join(t.TempDir(), pause.Name)
	if err := os.WriteFile(path, program, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		if err := cmd.Wait(); !strings.Contains(fmt.Sprint(err), "killed") {
			t.Errorf("the program ended by itself: %v", err)
		}
	}()
	proc := fmt.Sprintf("/proc/%d/", cmd.Process.Pid)
	const pauseCall = "34"
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		call, err := os.ReadFile(proc + "syscall")
		if err != nil {
			t.Skip(err) // the kernel does not tell
		}
		if fields := strings.Fields(string(call)); len(fields) > 0 && fields[0] == pauseCall {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the program does not sleep but calls %s", call)
		}
	}
	if files, err := os.ReadDir(proc + "fd"); err != nil || len(files) != 0 {
		t.Errorf("open files are %v (%v)", files, err)
	}
	status, err := os.ReadFile(proc + "status")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(status), "\n")
	for _, want := range []string{"Name:\tpause", "Threads:\t1"} {
		if !slices.Contains(lines, want) {
			t.Errorf("status has no %q:\n%s", want, status)
		}
	}
	// Others may be ignored since the test was started.
	for _, line := range lines {
		if mask, ok := strings.CutPrefix(line, "SigIgn:\t"); ok {
			if ignored, err := strconv.ParseUint(mask, 16, 64); err != nil || ignored&(1<<(unix.SIGCHLD-1)) == 0 {
				t.Errorf("the end of children is not ignored: %s (%v)", line, err)
			}
			return
		}
	}
	t.Errorf("status tells no ignored signals:\n%s", status)
}
