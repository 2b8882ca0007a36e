package clhserver_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/hypervisor/clh/api"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

// vmm is a server in this process, with a machine in memory.
type vmm struct {
	t      *testing.T
	dir    string
	socket string
	events bytes.Buffer // to be read when the server has ended
	cancel context.CancelFunc
	done   chan error
}

// serve starts a server. When the test ends so does it, and nothing of it is left.
func serve(t *testing.T, script memory.Script) *vmm {
	t.Helper()
	dir, err := os.MkdirTemp("", "clhs")
	if err != nil {
		t.Fatal(err)
	}
	before := runtime.NumGoroutine()
	v := &vmm{t: t, dir: dir, socket: filepath.Join(dir, "a.sock"), done: make(chan error, 1)}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: v.socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	profile, err := clhserver.ProfileOf(script.Version)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	v.cancel = cancel
	go func() {
		v.done <- clhserver.Serve(ctx, clhserver.Config{
			Listener: l, Backend: memory.New(script), EventMonitor: &v.events, Profile: profile, Intercept: script.Intercept,
		})
	}()
	t.Cleanup(func() {
		v.end()
		os.RemoveAll(dir)
		for range 100 {
			if runtime.NumGoroutine() <= before {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("%d goroutines before, %d after", before, runtime.NumGoroutine())
	})
	return v
}

func (v *vmm) end() {
	v.t.Helper()
	v.cancel()
	select {
	case err := <-v.done:
		v.done <- err
		if err != nil {
			v.t.Errorf("Serve: %v", err)
		}
	case <-time.After(10 * time.Second):
		v.t.Fatal("Serve does not end")
	}
}

func (v *vmm) file(name string) string {
	v.t.Helper()
	path := filepath.Join(v.dir, name)
	if err := os.WriteFile(path, make([]byte, 4096), 0o600); err != nil {
		v.t.Fatal(err)
	}
	return path
}

func (v *vmm) dial() *net.UnixConn {
	v.t.Helper()
	c, err := net.Dial("unix", v.socket)
	if err != nil {
		v.t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.UnixConn)
}

// raw sends bytes on a connection of their own, with descriptors, and returns
// the answer as it came.
func (v *vmm) raw(text string, files ...*os.File) string {
	v.t.Helper()
	c := v.dial()
	defer c.Close()
	var oob []byte
	for _, f := range files {
		oob = append(oob, unix.UnixRights(int(f.Fd()))...)
	}
	if _, _, err := c.WriteMsgUnix([]byte(text), oob, nil); err != nil {
		v.t.Fatal(err)
	}
	return readAnswer(v.t, c)
}

// readAnswer reads one response, head and body.
func readAnswer(t *testing.T, r io.Reader) string {
	t.Helper()
	var seen bytes.Buffer
	resp, err := http.ReadResponse(bufio.NewReader(io.TeeReader(r, &seen)), nil)
	if err != nil {
		return "closed"
	}
	defer resp.Body.Close()
	if resp.ContentLength > 0 {
		io.ReadAll(resp.Body)
	}
	return seen.String()
}

func put(endpoint, body string) string {
	return fmt.Sprintf("PUT /api/v1/%s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", endpoint, len(body), body)
}

func get(endpoint string) string {
	return "GET /api/v1/" + endpoint + " HTTP/1.1\r\nHost: localhost\r\n\r\n"
}

// ask returns status and body.
func (v *vmm) ask(request string, files ...*os.File) (int, string) {
	v.t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(strings.NewReader(v.raw(request, files...))), nil)
	if err != nil {
		v.t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

// want asks and checks status and body; "*" is any body.
func (v *vmm) want(status int, body, request string, files ...*os.File) {
	v.t.Helper()
	gotStatus, gotBody := v.ask(request, files...)
	if gotStatus != status || body != "*" && gotBody != body {
		line, _, _ := strings.Cut(request, "\r\n")
		v.t.Errorf("%s: %d %q, want %d %q", line, gotStatus, gotBody, status, body)
	}
}

func (v *vmm) info() (info api.VmInfo) {
	v.t.Helper()
	_, body := v.ask(get("vm.info"))
	if err := json.Unmarshal([]byte(body), &info); err != nil {
		v.t.Fatalf("vm.info: %q: %v", body, err)
	}
	return info
}

// config describes a machine; more is members of the description.
func (v *vmm) config(more string) string {
	return fmt.Sprintf(`{"payload":{"kernel":%q},"console":{"mode":"Off"},"serial":{"mode":"Null"},"vsock":{"cid":3,"socket":%q}%s}`,
		v.file("kernel"), filepath.Join(v.dir, "v.sock"), more)
}

func (v *vmm) boot(more string) {
	v.t.Helper()
	v.want(204, "", put("vm.create", v.config(more)))
	v.want(204, "", put("vm.boot", ""))
}

// TestStates walks the table of states and calls, for the versions that differ.
func TestStates(t *testing.T) {
	for _, tc := range []struct {
		version             string
		notCreated, unknown int
		bootPaused          int
	}{
		{"40", 500, 500, 204}, {"46", 500, 500, 204}, {"51", 500, 500, 204}, {"53.0.0", 404, 500, 500}, {"54", 404, 404, 500},
	} {
		t.Run(tc.version, func(t *testing.T) {
			v := serve(t, memory.Script{Version: tc.version, Eject: memory.Never})
			disk := fmt.Sprintf(`{"path":%q,"readonly":true}`, v.file("disk"))
			nc := tc.notCreated
			v.want(200, "*", get("vmm.ping"))
			v.want(nc, "*", get("vm.info"))
			v.want(nc, "*", put("vm.boot", ""))
			v.want(nc, "*", put("vm.add-disk", disk))
			v.want(nc, "*", put("vm.resize", `{"desired_vcpus":2}`))
			v.want(nc, "*", put("vm.reboot", ""))
			for _, e := range []string{"vm.shutdown", "vm.pause", "vm.resume", "vm.power-button"} {
				v.want(500, "*", put(e, ""))
			}
			v.want(500, "*", get("vm.counters"))
			v.want(204, "", put("vm.delete", ""))

			v.want(204, "", put("vm.create", v.config("")))
			v.want(500, "*", put("vm.create", v.config("")))
			v.want(204, "", put("vm.add-disk", disk)) // cold: no answer
			v.want(tc.unknown, "*", put("vm.remove-device", `{"id":"none"}`))
			v.want(204, "", put("vm.resize", `{"desired_vcpus":1}`))
			v.want(500, "*", put("vm.shutdown", ""))
			v.want(204, "", put("vm.boot", ""))

			v.want(500, "*", put("vm.boot", ""))
			v.want(500, "*", put("vm.resume", ""))
			v.want(204, "", put("vm.pause", ""))
			v.want(500, "*", put("vm.pause", ""))
			v.want(tc.bootPaused, "*", put("vm.boot", ""))
			if tc.bootPaused == 500 {
				v.want(204, "", put("vm.resume", ""))
			}
			v.want(200, "*", put("vm.add-disk", disk))
			v.want(200, "*", get("vm.counters"))
			v.want(tc.unknown, "*", put("vm.remove-device", `{"id":"none"}`))
			v.want(204, "", put("vm.reboot", ""))
			v.want(204, "", put("vm.shutdown", ""))
			if s := v.info().State; s != api.VmInfoStateCreated {
				t.Errorf("after vm.shutdown the state is %s", s)
			}
			v.want(204, "", put("vm.boot", ""))
			v.want(204, "", put("vm.delete", ""))
			v.want(nc, "*", get("vm.info"))
			v.want(204, "", put("vm.create", v.config("")))
			v.want(200, "", put("vmm.shutdown", ""))
			v.end()
		})
	}
}

// TestNamesOfTheSeed: one counter names all kinds of devices.
func TestAutomaticNames(t *testing.T) {
	v := serve(t, memory.Script{})
	disk := fmt.Sprintf(`{"path":%q,"readonly":true}`, v.file("disk"))
	v.want(204, "", put("vm.create", v.config(`,"disks":[`+disk+`]`)))
	tap, err := os.Open(v.file("tap"))
	if err != nil {
		t.Fatal(err)
	}
	defer tap.Close()
	v.want(204, "", put("vm.add-net", `{"mac":"02:00:00:00:00:01"}`), tap)
	v.want(204, "", put("vm.boot", ""))
	for i, bdf := range []string{"0000:00:05.0", "0000:00:06.0", "0000:00:07.0"} { // disk, NIC, rng, vsock before
		v.want(200, fmt.Sprintf(`{"bdf":%q,"id":"_disk%d"}`, bdf, i+3), put("vm.add-disk", disk))
	}
	info := v.info()
	var ids []string
	for _, d := range *info.Config.Disks {
		ids = append(ids, *d.Id)
	}
	if want := []string{"_disk0", "_disk3", "_disk4", "_disk5"}; !slices.Equal(ids, want) {
		t.Errorf("disks %q, want %q", ids, want)
	}
	if got := *info.Config.Vsock.Id; got != "_vsock2" {
		t.Errorf("vsock is %s", got)
	}
	tree := *info.DeviceTree
	if n := tree["_virtio-pci-_disk3"]; *n.PciBdf != "0000:00:05.0" || (*n.Children)[0] != "_disk3" {
		t.Errorf("node of _disk3's PCI function: %+v", n)
	}
	// A freed slot is the next to be given, a name never is.
	v.want(204, "", put("vm.remove-device", `{"id":"_disk3"}`))
	v.want(200, `{"bdf":"0000:00:05.0","id":"_disk6"}`, put("vm.add-disk", disk))
	v.end()
	wantEvents(t, v.events.String(), "vmm/starting", "vm/booting", "virtio-device/activated _vsock2", "virtio-device/activated _disk0",
		"vm/booted", "virtio-device/activated _disk3", "virtio-device/activated _disk4", "virtio-device/activated _disk5",
		"vm/device-removed _disk3", "virtio-device/activated _disk6", "vm/shutdown", "vm/deleted", "vmm/shutdown")
}

func wantEvents(t *testing.T, stream string, want ...string) {
	t.Helper()
	var got []string
	for _, text := range strings.Split(strings.TrimSuffix(stream, "\n\n"), "\n\n") {
		var e clhserver.Event
		if err := json.Unmarshal([]byte(text), &e); err != nil {
			t.Fatalf("event %q: %v", text, err)
		}
		got = append(got, strings.TrimSpace(e.Source+"/"+e.Event+" "+e.Properties["id"]))
	}
	if !slices.Equal(got, want) {
		t.Errorf("events\n%q\nwant\n%q", got, want)
	}
}

func TestSlotAndIDAreTakenUntilTheGuestLetsGo(t *testing.T) {
	v := serve(t, memory.Script{Eject: memory.Never})
	v.boot("")
	disk := fmt.Sprintf(`{"id":"layer","path":%q}`, v.file("disk"))
	v.want(200, `{"bdf":"0000:00:03.0","id":"layer"}`, put("vm.add-disk", disk))
	v.want(204, "", put("vm.remove-device", `{"id":"layer"}`))
	info := v.info()
	if len(*info.Config.Disks) != 0 {
		t.Errorf("disks %+v", *info.Config.Disks)
	}
	if _, ok := (*info.DeviceTree)["layer"]; !ok {
		t.Error("the device tree has lost the disk before the guest has")
	}
	v.want(500, "*", put("vm.add-disk", disk))
	v.want(204, "", put("vm.remove-device", `{"id":"_virtio-pci-layer"}`))
}

func TestConfigIsValidatedAtBoot(t *testing.T) {
	for name, tc := range map[string]struct{ config, want string }{
		"no kernel":   {`{"payload":{}}`, "No kernel specified"},
		"cpus":        {`{"payload":{"kernel":"/k"},"cpus":{"boot_vcpus":2,"max_vcpus":1}}`, "Max CPUs"},
		"same id":     {`{"payload":{"kernel":"/k"},"disks":[{"id":"a","path":"/d"},{"id":"a","path":"/d"}]}`, "Identifier a is not unique"},
		"reserved id": {`{"payload":{"kernel":"/k"},"disks":[{"id":"__a","path":"/d"}]}`, "Identifier __a is not valid"},
		"queues":      {`{"payload":{"kernel":"/k"},"disks":[{"path":"/d","num_queues":2}]}`, "Number of queues"},
		"cid":         {`{"payload":{"kernel":"/k"},"vsock":{"cid":2,"socket":"/s"}}`, "CID 2"},
		"segment":     {`{"payload":{"kernel":"/k"},"disks":[{"path":"/d","pci_segment":1}]}`, "Invalid PCI segment"},
		"both":        {`{"payload":{"kernel":"/k","firmware":"/f"}}`, "both kernel and firmware"},
		"no file":     {`{"payload":{"kernel":"/nonexistent"}}`, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			v := serve(t, memory.Script{})
			v.want(204, "", put("vm.create", tc.config))
			if status, body := v.ask(put("vm.boot", "")); status != 500 || !strings.Contains(body, tc.want) {
				t.Errorf("vm.boot: %d %q, want %q", status, body, tc.want)
			}
			if s := v.info().State; s != api.VmInfoStateCreated {
				t.Errorf("state is %s", s)
			}
		})
	}
}

func TestErrorBodies(t *testing.T) {
	for version, want := range map[string]string{
		"40": "VM is not running", "46": "VM is not running", "51": `["Error from API","The operation vm.pause failed","VM is not running"]`,
	} {
		v := serve(t, memory.Script{Version: version})
		v.want(500, want, put("vm.pause", ""))
	}
}

func TestUnsetMembersAreNullBefore53(t *testing.T) {
	for version, want := range map[string]bool{"40": true, "53": false} {
		v := serve(t, memory.Script{Version: version})
		v.want(204, "", put("vm.create", v.config("")))
		if _, body := v.ask(get("vm.info")); strings.Contains(body, `"device_tree":null`) != want {
			t.Errorf("version %s: %s", version, body)
		}
	}
}
