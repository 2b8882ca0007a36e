package memory

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/kata-cc/kata-cc/internal/vsock"
)

func TestScriptIsReadAsWritten(t *testing.T) {
	want := Script{
		Vsock: map[uint32]string{1024: "/tmp/{id}.sock"}, Hybrid: "/h", Up: Duration(time.Second), Console: "hello\n",
		Eject: Never, Reserved: []uint8{1, 2}, Version: "53", Guest: []Step{{After: Duration(time.Millisecond), Do: "kill", Text: "x", Signal: 31}},
		Faults: []Fault{{Endpoint: "vm.boot", Call: 1, Do: "late", For: Duration(time.Minute)}},
	}
	got, err := ParseScript([]byte(want.String()))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%s\nis read as %+v, %v", want, got, err)
	}
	path := filepath.Join(t.TempDir(), "s.json")
	if err := os.WriteFile(path, []byte(want.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, env := range []string{path, want.String()} {
		t.Setenv(ScriptEnv, env)
		if got, err := ScriptFromEnv(); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("read %+v, %v", got, err)
		}
	}
}

func TestScriptThatCannotBe(t *testing.T) {
	for _, text := range []string{
		``, `{"unknown":1}`, `{"eject":"soon"}`, `{"eject":"-1s"}`, `{"faults":[{"endpoint":"vm.boot","do":"explode"}]}`,
		`{"guest":[{"do":"sing"}]}`, `{} {}`,
	} {
		if got, err := ParseScript([]byte(text)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q is read as %+v, %v", text, got, err)
		}
	}
}

func TestVsockPorts(t *testing.T) {
	dir, err := os.MkdirTemp("", "mem")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	stand := func(name string, serve func(net.Conn)) string {
		path := filepath.Join(dir, name)
		l, lerr := net.Listen("unix", path)
		if lerr != nil {
			t.Fatal(lerr)
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, serr := l.Accept()
				if serr != nil {
					return
				}
				serve(c)
				c.Close()
			}
		}()
		return path
	}
	stand("plain", func(c net.Conn) { io.WriteString(c, "plain") })
	stand("hybrid", func(c net.Conn) {
		line, _ := vsock.ReadLine(c)
		port, _ := vsock.ParseConnect(line)
		c.Write(vsock.Reply(port))
		io.WriteString(c, "hybrid")
	})
	socket := filepath.Join(dir, "clh.sock")
	v, err := listen(socket, Script{Vsock: map[uint32]string{1024: "{dir}/plain", 1025: "{dir}/none"}, Hybrid: "{dir}/hybrid"})
	if err != nil {
		t.Fatal(err)
	}
	defer v.close()
	for port, want := range map[uint32]string{1024: "plain", 7: "hybrid"} {
		c, err := vsock.Dial(t.Context(), socket, port)
		if err != nil {
			t.Fatalf("port %d: %v", port, err)
		}
		if got, _ := io.ReadAll(c); string(got) != want {
			t.Errorf("port %d says %q", port, got)
		}
		c.Close()
	}
	if _, err := vsock.Dial(t.Context(), socket, 1025); !errdefs.IsUnavailable(err) {
		t.Errorf("a port whose listener is missing: %v", err)
	}
}
