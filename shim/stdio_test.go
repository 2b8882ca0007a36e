package shim

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func TestParseStdio(t *testing.T) {
	for in, want := range map[string]string{
		"": "fifo", "/run/fifo/1/out": "fifo", "fifo:///run/out": "fifo", "file:///var/log/x": "file", "binary:///bin/logger?a=b": "binary",
	} {
		if u, err := parseStdio(stdioPaths{stdout: in}); err != nil || u.Scheme != want {
			t.Errorf("%q: %v, %v; want %s", in, u, err, want)
		}
	}
	for _, in := range []string{"http://x/", "file://relative", "binary:logger", "%zz", "binary-v2:///x"} {
		if _, err := parseStdio(stdioPaths{stdout: in}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func FuzzParseStdio(f *testing.F) {
	for _, s := range []string{"", "/a", "file:///a", "binary:///a?b=c", "x:y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, address string) {
		u, err := parseStdio(stdioPaths{stdout: address})
		if err == nil && u.Scheme != "fifo" && !filepath.IsAbs(u.Path) {
			t.Errorf("%q gives the relative path %q", address, u.Path)
		}
	})
}

func fifo(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestInputEndsAfterWhatWasWritten(t *testing.T) {
	path := fifo(t)
	in, err := openInput(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	w, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteString("hello"); err != nil {
		t.Fatal(err)
	}
	w.Close()
	in.End()
	if text, err := io.ReadAll(in); err != nil || string(text) != "hello" {
		t.Errorf("read %q, %v", text, err)
	}
}

func TestEndWakesAReadThatWaits(t *testing.T) {
	in, err := openInput(fifo(t))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	ended := make(chan error)
	go func() {
		_, err := in.Read(make([]byte, 1))
		ended <- err
	}()
	in.End()
	if err := <-ended; !errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
}

func TestCloseWakesAWriteThatNobodyTakes(t *testing.T) {
	path := fifo(t)
	r, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	out, err := openOutput(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	r.Close() // the reader goes: no error, no end
	written := make(chan error)
	go func() {
		_, err := out.Write(make([]byte, 1<<20))
		written <- err
	}()
	out.Close()
	if err := <-written; !errors.Is(err, os.ErrClosed) {
		t.Errorf("%v", err)
	}
}
