package clh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/hypervisor/clh/api"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

func TestParseVersion(t *testing.T) {
	for text, want := range map[string]version{"40.0.0": 40, "51.1.0": 51, "41.0.139": 41, "v53.0-3-gabc": 53, "46": 46} {
		if got, err := parseVersion(text); err != nil || got != want {
			t.Errorf("%q is %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "36.0.0", "39.0", "-50.0", "dev", "70000.0"} {
		if _, err := parseVersion(text); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%q: %v, want failed precondition", text, err)
		}
	}
}

// profiles are the versions of the table, in the order of its columns.
var profiles = []string{"40.0.0", "46.0.0", "51.1.0", "53.0.0", "54.0.0"}

// calls are what the driver asks of a VMM, by the state that the VM is in. Each
// row says what every version answers.
var calls = []struct {
	name   string
	state  string // "none", "created", "running"
	before func(*bench) error
	call   func(*bench) error
	want   [5]int // status; 0: success
}{
	{"ping", "none", nil, (*bench).ping, [5]int{}},
	{"info of no VM", "none", nil, (*bench).info, [5]int{500, 500, 500, 404, 404}},
	{"boot of no VM", "none", nil, (*bench).boot, [5]int{500, 500, 500, 404, 404}},
	{"disk for no VM", "none", nil, disk("a"), [5]int{500, 500, 500, 404, 404}},
	{"remove from no VM", "none", nil, remove("a"), [5]int{500, 500, 500, 404, 404}},
	{"shutdown without a VM", "none", nil, (*bench).shutdown, [5]int{}},

	{"second VM", "created", nil, (*bench).create, [5]int{500, 500, 500, 500, 500}},
	{"boot", "created", nil, (*bench).boot, [5]int{}},
	{"boot of an invalid VM", "created", (*bench).spoil, (*bench).boot, [5]int{500, 500, 500, 500, 400}},
	{"new size for no VM", "none", nil, resize("a"), [5]int{404, 404, 500, 404, 404}},
	{"new size before boot", "created", nil, resize("a"), [5]int{404, 404, 500, 500, 500}},
	{"new size", "running", writable("a"), resize("a"), [5]int{404, 404, 0, 0, 0}},
	{"new size of an unknown disk", "running", nil, resize("a"), [5]int{404, 404, 500, 500, 404}},
	{"new size of half a sector", "running", disk("a"), resizeTo("a", 8192+256), [5]int{404, 404, 500, 500, 500}},
	{"unknown device before boot", "created", nil, remove("none"), [5]int{500, 500, 500, 500, 404}},

	{"second boot", "running", nil, (*bench).boot, [5]int{500, 500, 500, 500, 500}},
	{"disk", "running", nil, disk("a"), [5]int{}},
	{"missing file", "running", (*bench).deleteFile, disk("a"), [5]int{500, 500, 500, 500, 500}},
	{"invalid disk", "running", nil, disk("__a"), [5]int{500, 500, 500, 500, 400}},
	{"id twice", "running", disk("a"), disk("a"), [5]int{500, 500, 500, 500, 409}},
	{"id of a device on its way out", "running", removing("a"), disk("a"), [5]int{500, 500, 500, 500, 500}},
	{"unknown device", "running", nil, remove("none"), [5]int{500, 500, 500, 500, 404}},
	{"second removal", "running", removing("a"), remove("a"), [5]int{0, 0, 0, 500, 0}},
	{"removal of what cannot be", "running", nil, remove("__rng"), [5]int{500, 500, 500, 500, 500}},
	{"shutdown", "running", nil, (*bench).shutdown, [5]int{}},
}

// classes are what the driver makes of a status.
var classes = map[int]func(error) bool{
	400: errdefs.IsInvalidArgument, 404: errdefs.IsNotFound, 409: errdefs.IsAlreadyExists, 429: errdefs.IsResourceExhausted, 500: errdefs.IsInternal,
}

func TestCallsInEveryVersion(t *testing.T) {
	for column, version := range profiles {
		for _, c := range calls {
			t.Run(version+"/"+c.name, func(t *testing.T) {
				b := newBench(t, version)
				b.reach(c.state)
				if c.before != nil {
					if err := c.before(b); err != nil {
						t.Fatal(err)
					}
				}
				err := c.call(b)
				var refused *APIError
				switch want := c.want[column]; {
				case want == 0:
					if err != nil {
						t.Errorf("%v, want success", err)
					}
				case !errors.As(err, &refused) || refused.Status != want:
					t.Errorf("%v, want status %d", err, want)
				case !classes[want](err):
					t.Errorf("%v has not the class of status %d", err, want)
				case len(refused.Reasons) == 0 || slices.ContainsFunc(refused.Reasons, func(r string) bool { return strings.ContainsAny(r, "[]") }):
					t.Errorf("reasons are %q", refused.Reasons)
				}
			})
		}
	}
}

// bench is the API server of one version, in this process, and a client of it.
type bench struct {
	t      *testing.T
	client *client
	dir    string
}

func newBench(t *testing.T, version string) *bench {
	t.Helper()
	dir, err := os.MkdirTemp("", "clh")
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: apiSocket(dir), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	profile, err := clhserver.ProfileOf(version)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- clhserver.Serve(ctx, clhserver.Config{Listener: listener, Profile: profile,
			Backend: memory.New(memory.Script{Version: version, Eject: memory.Never})})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	b := &bench{t: t, client: newClient(apiSocket(dir), context.Background()), dir: dir}
	for _, name := range []string{"kernel", "initrd", "layer"} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, 4096), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

const benchTimeout = 10 * time.Second

// reach takes the VM to a state.
func (b *bench) reach(state string) {
	b.t.Helper()
	steps := map[string][]func(*bench) error{"none": nil, "created": {(*bench).create}, "running": {(*bench).create, (*bench).boot}}
	for _, step := range steps[state] {
		if err := step(b); err != nil {
			b.t.Fatal(err)
		}
	}
}

func (b *bench) spec() hypervisor.Spec {
	return hypervisor.Spec{ID: "sb", VCPUs: 1, MemoryMiB: 128, Kernel: filepath.Join(b.dir, "kernel"), Initrd: filepath.Join(b.dir, "initrd")}
}

func (b *bench) ping() error {
	p, err := b.client.ping(b.t.Context(), benchTimeout)
	if err == nil && !slices.Contains(profiles, p.Version) {
		err = fmt.Errorf("version is %q", p.Version)
	}
	return err
}

func (b *bench) info() error {
	_, err := b.client.info(b.t.Context(), benchTimeout)
	return err
}

func (b *bench) create() error {
	return b.client.create(b.t.Context(), benchTimeout, vmConfig(b.spec(), b.dir, defaultSegments))
}

// spoil adds what is found invalid at boot: to the stored description nothing
// else is done.
func (b *bench) spoil() error {
	err := b.client.call(b.t.Context(), "vm.delete", benchTimeout, nil,
		func(ctx context.Context) (*http.Response, error) { return b.client.api.DeleteVM(ctx) })
	if err != nil {
		return err
	}
	c := vmConfig(b.spec(), b.dir, defaultSegments)
	c.Vsock.Cid = 2
	return b.client.create(b.t.Context(), benchTimeout, c)
}

func (b *bench) boot() error     { return b.client.boot(b.t.Context(), benchTimeout) }
func (b *bench) shutdown() error { return b.client.shutdown(b.t.Context(), benchTimeout) }

func (b *bench) deleteFile() error { return os.Remove(filepath.Join(b.dir, "layer")) }

func disk(id string) func(*bench) error { return diskOf(id, true) }

func writable(id string) func(*bench) error { return diskOf(id, false) }

func diskOf(id string, readOnly bool) func(*bench) error {
	return func(b *bench) error {
		_, err := b.client.addDisk(b.t.Context(), benchTimeout, api.DiskConfig{
			Id: &id, Path: ptr(filepath.Join(b.dir, "layer")), Readonly: ptr(readOnly), ImageType: ptr(api.ImageTypeRaw), PciSegment: ptr(int16(1)),
		})
		return err
	}
}

func remove(id string) func(*bench) error {
	return func(b *bench) error { return b.client.removeDevice(b.t.Context(), benchTimeout, id) }
}

func resize(id string) func(*bench) error { return resizeTo(id, 8192) }

func resizeTo(id string, size uint64) func(*bench) error {
	return func(b *bench) error { return b.client.resizeDisk(b.t.Context(), benchTimeout, id, size) }
}

// removing plugs a disk and asks for it back; the guest keeps it.
func removing(id string) func(*bench) error {
	return func(b *bench) error { return errors.Join(disk(id)(b), remove(id)(b)) }
}

func TestLimitOfAProtectedBootGrowsWithMemory(t *testing.T) {
	plain := hypervisor.Spec{MemoryMiB: 64 << 10}
	protected := plain
	protected.Confidential = &hypervisor.Confidential{}
	if got := bootLimit(plain, time.Minute); got != time.Minute {
		t.Errorf("a plain machine has %v", got)
	}
	if got := bootLimit(protected, time.Minute); got < 3*time.Minute || got > 5*time.Minute {
		t.Errorf("a protected machine of 64 GiB has %v", got)
	}
}
