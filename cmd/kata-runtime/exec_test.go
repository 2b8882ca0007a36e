package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/console"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/internal/vsock"
)

// guest serves hybrid vsock for a sandbox; port 1026 runs shell if it is not nil.
func guest(t *testing.T, dir, sandbox string, shell func(net.Conn)) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, sandbox), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, sandbox, consoleSocket))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			line, err := vsock.ReadLine(conn)
			if port, _ := vsock.ParseConnect(line); err == nil && port == 1026 && shell != nil {
				// Its first bytes come along with the answer.
				fmt.Fprintf(conn, "%s# ", vsock.Reply(port))
				shell(conn)
			}
			conn.Close()
		}
	}()
}

// echoShell answers each line with its text in brackets, until "exit".
func echoShell(conn net.Conn) {
	for in := bufio.NewScanner(conn); in.Scan(); {
		line := strings.TrimRight(in.Text(), "\r")
		if line == "exit" {
			return
		}
		fmt.Fprintf(conn, "[%s]\r\n", line)
	}
}

func TestFindSandbox(t *testing.T) {
	dir := t.TempDir()
	for _, id := range []string{"ab12", "ab13", "cd", "cdef"} {
		if err := os.Mkdir(filepath.Join(dir, id), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{"ab12": "ab12", "ab12x": "", "ab": "", "cd": "cd", "cde": "cdef", "x": "", "../ab12": "", "": ""} {
		got, err := target{Dir: dir, Sandbox: name}.find()
		if got != want || (err == nil) != (want != "") {
			t.Errorf("find %q = %q, %v; want %q", name, got, err, want)
		}
	}
	if _, err := (target{Dir: dir + "/none", Sandbox: "a"}).find(); !errdefs.IsNotFound(err) {
		t.Errorf("find without a directory: %v, want not found", err)
	}
}

func TestExecWithoutAConsoleSaysWhatToDo(t *testing.T) {
	dir := t.TempDir()
	guest(t, dir, "sandbox", nil)
	err := execute(t.Context(), target{dir, "sandbox", 1026}, devNull(t), io.Discard)
	if err == nil || !strings.Contains(err.Error(), "debug_console_enabled = true") {
		t.Errorf("exec: %v, want how to enable the console", err)
	}
}

func devNull(t *testing.T) *os.File {
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestExecWithPipes(t *testing.T) {
	dir := t.TempDir()
	guest(t, dir, "sandbox", echoShell)
	for input, want := range map[string]string{
		"one\ntwo\n": "# [one]\r\n[two]\r\n",
		"one":        "# [one]\r\n", // a last line without an end is a line
		"":           "# ",
	} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, input); err != nil {
			t.Fatal(err)
		}
		w.Close()
		var out bytes.Buffer
		if err := execute(t.Context(), target{dir, "sand", 1026}, r, &out); err != nil {
			t.Errorf("exec: %v", err)
		}
		r.Close()
		if out.String() != want {
			t.Errorf("input %q: output %q, want %q", input, out.String(), want)
		}
	}
}

func TestExecAtATerminal(t *testing.T) {
	pty, path, err := console.NewPty()
	if err != nil {
		t.Skipf("needs a pseudo-terminal: %v", err)
	}
	defer pty.Close()
	terminal, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.Close()
	if err = pty.Resize(console.WinSize{Height: 33, Width: 111}); err != nil {
		t.Fatal(err)
	}
	before, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}

	dir := t.TempDir()
	raw := make(chan bool, 1)
	guest(t, dir, "sandbox", func(conn net.Conn) {
		line, bad := vsock.ReadLine(conn) // sent in raw mode
		if bad != nil {
			t.Error(bad)
		}
		fmt.Fprintf(conn, "[%s]\r\n", bytes.TrimSpace(line))
		now, bad := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
		raw <- bad == nil && now.Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) == 0
		echoShell(conn)
	})
	if _, err = io.WriteString(pty, "hello\nexit\n"); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err = execute(context.Background(), target{dir, "sandbox", 1026}, terminal, &out); err != nil {
		t.Fatal(err)
	}
	if !<-raw {
		t.Error("the terminal was not in raw mode")
	}
	if want := "# [stty rows 33 cols 111]\r\n[hello]\r\n"; out.String() != want {
		t.Errorf("output %q, want %q", out.String(), want)
	}
	after, err := unix.IoctlGetTermios(int(terminal.Fd()), unix.TCGETS)
	if err != nil || *after != *before {
		t.Errorf("terminal is %+v, %v afterwards, was %+v", after, err, before)
	}
}
