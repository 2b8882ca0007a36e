package agentclient_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/kata-cc/kata-cc/agentclient"
	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/agentclient/agenttest"
)

func TestOutputOfEveryFlavour(t *testing.T) {
	long := strings.Repeat("0123456789abcdef", 20000) // more than a pipe holds
	for _, f := range flavours {
		t.Run(string(f), func(t *testing.T) {
			a, c := connect(t, f)
			a.Script([]string{"/app"}, agenttest.Script{Stdout: long, Stderr: "oh", Exit: 7})
			stdout, stderr, code := collect(t, run(t, c, "app", "/app"))
			if stdout != long || stderr != "oh" || code != 7 {
				t.Errorf("got %d bytes, %q, exit %d; want %d bytes, \"oh\", exit 7", len(stdout), stderr, code, len(long))
			}
		})
	}
}

func TestOutputHeldOpenAfterTheExit(t *testing.T) {
	for _, f := range flavours {
		t.Run(string(f), func(t *testing.T) {
			a, c := connect(t, f)
			a.Script([]string{"/app"}, agenttest.Script{Stdout: "x", Exit: 3, Hold: true, After: 50 * time.Millisecond})
			if stdout, _, code := collect(t, run(t, c, "app", "/app")); stdout != "x" || code != 3 {
				t.Errorf("got %q, exit %d", stdout, code)
			}
		})
	}
}

// A filter goes on writing after its input was closed; agents of the azl line
// answer the pending read as if it had ended.
func TestFilterOutlivesItsInput(t *testing.T) {
	text := strings.Repeat("line\n", 30000)
	for _, f := range flavours {
		t.Run(string(f), func(t *testing.T) {
			_, c := connect(t, f)
			s := run(t, c, "cat", "/bin/cat")
			stdin := s.Stdin(t.Context())
			go func() {
				if _, err := io.WriteString(stdin, text); err != nil {
					t.Errorf("write: %v", err)
				}
				if err := stdin.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			}()
			stdout, _, code := collect(t, s)
			if stdout != text || code != 0 {
				t.Errorf("got %d of %d bytes, exit %d", len(stdout), len(text), code)
			}
		})
	}
}

// The input of a process that reads nothing is closed while it runs on: the
// doubtful end must not hide what it writes later.
func TestOutputAfterADoubtfulEnd(t *testing.T) {
	for _, f := range flavours {
		t.Run(string(f), func(t *testing.T) {
			_, c := connect(t, f)
			s := run(t, c, "sleep", "/bin/sleep")
			if err := s.Stdin(t.Context()).Close(); err != nil {
				t.Fatal(err)
			}
			go func() {
				time.Sleep(300 * time.Millisecond)
				if err := c.SignalProcess(t.Context(), &agentpb.SignalProcessRequest{ContainerId: "sleep", Signal: 9}); err != nil {
					t.Error(err)
				}
			}()
			want := int32(137)
			if f == agenttest.Azl1 || f == agenttest.Azl5 {
				want = 9
			}
			if _, _, code := collect(t, s); code != want {
				t.Errorf("exit %d, want %d", code, want)
			}
		})
	}
}

func TestHiddenOutputDoesNotHinder(t *testing.T) {
	for _, f := range flavours {
		t.Run(string(f), func(t *testing.T) {
			a, c := connect(t, f)
			a.DenyRead()
			a.Script([]string{"/app"}, agenttest.Script{Stdout: strings.Repeat("secret", 1000), Exit: 4})
			stdout, _, code := collect(t, run(t, c, "app", "/app"))
			if stdout != "" || code != 4 {
				t.Errorf("got %q, exit %d", stdout, code)
			}
		})
	}
}

func TestStreamsEndWithTheAgent(t *testing.T) {
	a, c := connect(t, agenttest.Ours)
	s := run(t, c, "sleep", "/bin/sleep")
	out := s.Stdout(t.Context())
	go func() {
		time.Sleep(20 * time.Millisecond)
		a.Die()
	}()
	if _, err := io.ReadAll(out); err != nil {
		t.Errorf("read: %v, want the end", err)
	}
	if _, err := s.Wait(t.Context()); !errors.Is(err, agentclient.ErrGone) {
		t.Errorf("Wait: %v, want ErrGone", err)
	}
	if _, err := s.Stdin(t.Context()).Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("write: %v, want a closed pipe", err)
	}
}
