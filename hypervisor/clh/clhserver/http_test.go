package clhserver_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

const okHead = "HTTP/1.1 204 \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n\r\n"

func TestAnswersToTheByte(t *testing.T) {
	v := serve(t, memory.Script{})
	long := strings.Repeat("x", 1100)
	for name, tc := range map[string]struct{ request, want string }{
		"204":               {put("vm.delete", ""), okHead},
		"absolute uri":      {"PUT http://localhost/api/v1/vm.delete HTTP/1.0\r\n\r\n", okHead},
		"no host":           {"PUT /api/v1/vm.delete HTTP/1.1\r\n\r\n", okHead},
		"unknown path":      {get("vm.none"), text(404, "Not Found")},
		"query":             {get("vm.info?x=1"), text(404, "Not Found")},
		"trailing slash":    {get("vm.info/"), text(404, "Not Found")},
		"other base":        {"GET /api/v2/vm.info HTTP/1.1\r\n\r\n", text(404, "Not Found")},
		"wrong method":      {get("vm.boot"), text(400, "Bad Request")},
		"body not wanted":   {put("vm.boot", "{}"), text(400, "Bad Request")},
		"body missing":      {put("vm.add-disk", ""), text(400, "Bad Request")},
		"create, no body":   {put("vm.create", ""), "HTTP/1.1 400 \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n"},
		"patch":             {"PATCH /api/v1/vm.boot HTTP/1.1\r\n\r\n", "HTTP/1.1 400 \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n"},
		"method":            {"POST /api/v1/vm.boot HTTP/1.1\r\n\r\n", bad("Invalid HTTP Method.")},
		"version":           {"GET /api/v1/vmm.ping HTTP/2\r\n\r\n", bad("Unsupported HTTP version.")},
		"request line":      {"GET\r\n\r\n", bad("Invalid HTTP Request Line.")},
		"header, no colon":  {"GET /api/v1/vmm.ping HTTP/1.1\r\nfoo\r\n\r\n", bad("Invalid header format.")},
		"long header":       {"GET /api/v1/vmm.ping HTTP/1.1\r\nX: " + long + "\r\n\r\n", bad("Invalid header: a line is longer than 1024 bytes.")},
		"content length":    {"PUT /api/v1/vm.boot HTTP/1.1\r\nContent-Length: -1\r\n\r\n", bad("Invalid value for header Content-Length.")},
		"large body":        {put("vm.create", strings.Repeat("x", 51201)), bad("The maximum body size is 51200 bytes.")},
		"chunked":           {"PUT /api/v1/vm.delete HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", okHead},
		"100-continue":      {"PUT /api/v1/vm.create HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n{", "HTTP/1.1 100 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n"},
		"not decodable":     {put("vm.create", `{"payload":3}`), ""},
		"null":              {put("vm.create", `{"cpus":{"boot_vcpus":null,"max_vcpus":1}}`), ""},
		"missing":           {put("vm.create", `{"vsock":{"socket":"/s"}}`), text(400, "missing field `cid`")},
		"missing in a list": {put("vm.create", `{"disks":[null]}`), ""},
		"no such word":      {put("vm.create", `{"serial":{"mode":"tty"}}`), text(400, "unknown variant `tty`")},
		"wrong type":        {put("vm.create", `{"payload":{"kernel":"/k"},"cpus":{"boot_vcpus":"1"}}`), ""},
	} {
		got := v.raw(tc.request)
		if tc.want == "" {
			if !strings.HasPrefix(got, "HTTP/1.1 400 ") {
				t.Errorf("%s: %q", name, got)
			}
			continue
		}
		if !strings.HasPrefix(got, tc.want) {
			t.Errorf("%s: answered\n%q\nwant\n%q", name, got, tc.want)
		}
	}
}

func text(status int, body string) string {
	return fmt.Sprintf("HTTP/1.1 %d \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", status, len(body), body)
}

func bad(reason string) string {
	body := "{ \"error\": \"" + reason + "\nAll previous unanswered requests will be dropped.\" }"
	return fmt.Sprintf("HTTP/1.1 400 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

func TestTheEleventhConnectionIsRefused(t *testing.T) {
	v := serve(t, memory.Script{})
	for range 10 {
		c := v.dial()
		defer c.Close()
		io.WriteString(c, get("vmm.ping")) // so that it has been accepted
		readAnswer(t, c)
	}
	c := v.dial()
	defer c.Close()
	got, _ := io.ReadAll(c)
	if want := "HTTP/1.1 503 \r\nServer: Firecracker API\r\nConnection: close\r\n"; !strings.HasPrefix(string(got), want) || !strings.Contains(string(got), "Too many open connections") {
		t.Errorf("answered %q", got)
	}
}

func TestConnectionsAreKeptAndPipelined(t *testing.T) {
	v := serve(t, memory.Script{})
	c := v.dial()
	defer c.Close()
	io.WriteString(c, put("vm.delete", "")+put("vm.delete", "")+"GET /api/v1/vm.info HTTP/1.1\r\nConnection: close\r\n\r\n")
	io.WriteString(c, put("vm.delete", ""))
	want := okHead + okHead + text(500, "VM is not created") + okHead
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Errorf("answered %q, %v", got, err)
	}
}

func TestRequestOfWhoHasGoneIsDropped(t *testing.T) {
	v := serve(t, memory.Script{Faults: []memory.Fault{{Endpoint: "vmm.ping", Do: "delay", For: memory.Duration(100 * time.Millisecond)}}})
	slow := v.dial()
	defer slow.Close()
	io.WriteString(slow, get("vmm.ping"))
	time.Sleep(20 * time.Millisecond) // the ping has its turn; if not, the test proves nothing and passes
	c := v.dial()
	io.WriteString(c, put("vm.create", `{"payload":{}}`))
	c.Close()
	readAnswer(t, slow)
	v.want(500, "VM is not created", get("vm.info"))
}

func TestDescriptorsOfACard(t *testing.T) {
	v := serve(t, memory.Script{})
	v.want(204, "", put("vm.create", v.config(`,"cpus":{"boot_vcpus":2,"max_vcpus":2}`)))
	tap, err := os.Open(v.file("tap"))
	if err != nil {
		t.Fatal(err)
	}
	defer tap.Close()
	v.want(500, "*", put("vm.add-net", `{"num_queues":4}`), tap)
	v.want(500, "*", put("vm.add-net", `{"num_queues":2}`))
	v.want(204, "", put("vm.add-net", `{"id":"n0"}`), tap)
	v.want(204, "", put("vm.boot", ""), tap) // takes none: closed
	v.want(200, `{"bdf":"0000:00:04.0","id":"n1"}`, put("vm.add-net", `{"id":"n1"}`), tap)
	if n := opened(t, tap.Name()); n != 5 { // ours; for n0 and n1 the server's and the machine's
		t.Errorf("the tap is open %d times, want 5", n)
	}
	v.want(204, "", put("vm.reboot", ""))
	v.want(204, "", put("vm.remove-device", `{"id":"n0"}`))
	v.want(204, "", put("vm.delete", ""))
	if n := opened(t, tap.Name()); n != 1 {
		t.Errorf("the tap is open %d times after vm.delete, want 1", n)
	}
}

func opened(t *testing.T, path string) (n int) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if target, _ := os.Readlink("/proc/self/fd/" + fd.Name()); target == path {
			n++
		}
	}
	return n
}

func TestCommandLine(t *testing.T) {
	for line, want := range map[string]clhserver.Command{
		"--api-socket /run/a.sock":                 {APISocket: clhserver.Endpoint{Path: "/run/a.sock"}},
		"--api-socket path=/run/a.sock -v -vv":     {APISocket: clhserver.Endpoint{Path: "/run/a.sock"}, Verbosity: 3},
		"--api-socket fd=3 --event-monitor fd=4":   {APISocket: clhserver.Endpoint{FD: 3}, EventMonitor: clhserver.Endpoint{FD: 4}},
		"--api-socket=fd=3 --event-monitor path=e": {APISocket: clhserver.Endpoint{FD: 3}, EventMonitor: clhserver.Endpoint{Path: "e"}},
		"--api-socket s --log-file l --seccomp false": {
			APISocket: clhserver.Endpoint{Path: "s"}, LogFile: "l", Seccomp: "false"},
		"--version": {Version: true},
	} {
		if got, err := clhserver.ParseCommand(strings.Fields(line)); err != nil || got != want {
			t.Errorf("%s: %+v, %v", line, got, err)
		}
	}
	for _, line := range []string{"", "--api-socket", "--api-socket fd=x", "--event-monitor bare --api-socket s", "--seccomp maybe --api-socket s", "--disk path=x --api-socket s"} {
		if got, err := clhserver.ParseCommand(strings.Fields(line)); err == nil {
			t.Errorf("%q is taken as %+v", line, got)
		}
	}
}

func TestMachineThatEndsEndsTheServer(t *testing.T) {
	v := serve(t, memory.Script{})
	v.boot("")
	v.want(204, "", put("vm.power-button", ""))
	select {
	case err := <-v.done:
		v.done <- err
	case <-time.After(10 * time.Second):
		t.Fatal("the server goes on")
	}
	if _, err := net.Dial("unix", v.socket); err == nil {
		t.Error("the socket still takes connections")
	}
}
