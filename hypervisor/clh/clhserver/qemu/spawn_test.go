package qemu

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// helperVariable makes the test binary the process that is killed.
const helperVariable = "QEMU_TEST_SPAWN"

func TestMain(m *testing.M) {
	if os.Getenv(helperVariable) == "" {
		os.Exit(m.Run())
	}
	p, err := newSpawner().start("/bin/sleep", []string{"1000"}, nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// Have the runtime start and end threads, none of them the spawner's.
	for range 100 {
		done := make(chan struct{})
		go func() { exec.Command("/bin/true").Run(); close(done) }()
		<-done
	}
	fmt.Println(p.cmd.Process.Pid)
	select {}
}

func TestChildrenDieWithAKilledProcess(t *testing.T) {
	// Orphans come to us, so that their end can be waited for.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Skipf("needs to adopt orphans: %v", err)
	}
	defer unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), helperVariable+"=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(child, 0); err != nil {
		t.Fatalf("the child does not run: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	var status syscall.WaitStatus
	switch _, err := syscall.Wait4(child, &status, 0, nil); {
	case err == syscall.ECHILD && unix.Kill(child, 0) == unix.ESRCH:
		// The dying process had the time to take notice of it.
	case err != nil || !status.Signaled() || status.Signal() != syscall.SIGKILL:
		t.Errorf("child ended with status %#x, %v; want killed", status, err)
	}
}

func TestSpawnerClosedKillsWhatRuns(t *testing.T) {
	s := newSpawner()
	p, err := s.start("/bin/sleep", []string{"1000"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.close()
	s.close()
	<-p.done
	if got, want := p.failure().Error(), "sleep ended: signal: killed"; got != want {
		t.Errorf("failure %q, want %q", got, want)
	}
	if _, err := s.start("/bin/true", nil, nil); err == nil {
		t.Error("a closed spawner started a process")
	}
}

func TestChildrenHaveNoPrivileges(t *testing.T) {
	s := newSpawner()
	defer s.close()
	p, err := s.start("/bin/cat", []string{"/proc/self/status"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	<-p.done
	status := p.stderr.String()
	if !strings.Contains(status, "NoNewPrivs:\t1") {
		t.Error("the child may gain privileges")
	}
	for _, set := range []string{"CapPrm", "CapEff", "CapBnd"} {
		_, rest, _ := strings.Cut(status, set+":\t")
		value, _, _ := strings.Cut(rest, ";")
		caps, err := strconv.ParseUint(value, 16, 64)
		if err != nil {
			t.Fatalf("%s: %v in %s", set, err, status)
		}
		if os.Getuid() == 0 && caps&^(1<<unix.CAP_DAC_READ_SEARCH) != 0 {
			t.Errorf("%s is %016x, want at most the right to read", set, caps)
		}
	}
}

func TestFailureHasLastWords(t *testing.T) {
	s := newSpawner()
	defer s.close()
	p, err := s.start("/bin/sh", []string{"-c", `yes warning | head -n 4000; echo "qemu-system-x86_64: no memory" >&2; exit 3`}, nil)
	if err != nil {
		t.Fatal(err)
	}
	<-p.done
	got := p.failure().Error()
	if len(got) > 2*maxTail || !strings.HasPrefix(got, "sh ended: exit status 3: ") || !strings.HasSuffix(got, "warning; no memory") {
		t.Errorf("failure is %d bytes: %.80s…%s", len(got), got, got[max(0, len(got)-30):])
	}
	if _, err := s.start("/no/such/program", nil, nil); err == nil || !strings.Contains(err.Error(), "/no/such/program") {
		t.Errorf("error %v, want one that names the program", err)
	}
}
