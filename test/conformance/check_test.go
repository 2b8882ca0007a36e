package conformance

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
)

func isFailedPrecondition(err error) bool { return errdefs.IsFailedPrecondition(errgrpc.ToNative(err)) }

func isNotFound(err error) bool { return errdefs.IsNotFound(errgrpc.ToNative(err)) }

// devices is what the VMM of a sandbox says it is and has.
type devices struct {
	Disks []struct{ Path string }
	Net   []struct{ ID string }

	Cpus struct {
		Boot int `json:"boot_vcpus"`
		Max  int `json:"max_vcpus"`
	}
	Memory struct{ Size uint64 }

	Payload struct {
		Igvm     string
		HostData string `json:"host_data"`
	}
	Platform struct {
		SevSnp bool `json:"sev_snp"`
	}
}

func (h *host) devices(sandbox string) devices {
	h.t.Helper()
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join("/run/vc/vm", sandbox, "clh-api.sock"))
	}}}
	defer client.CloseIdleConnections()
	r, err := client.Get("http://localhost/api/v1/vm.info")
	if err != nil {
		h.t.Fatal(err)
	}
	defer r.Body.Close()
	var info struct{ Config devices }
	if err := json.NewDecoder(r.Body).Decode(&info); err != nil {
		h.t.Fatal(err)
	}
	return info.Config
}

// disks are the layers that a sandbox's machine has, in the order in which they
// were plugged.
func (h *host) disks(sandbox string) []string {
	h.t.Helper()
	var names []string
	for _, d := range h.devices(sandbox).Disks {
		names = append(names, filepath.Base(d.Path))
	}
	return names
}

// nics are the IDs of the network cards of a sandbox's machine.
func (h *host) nics(sandbox string) []string {
	h.t.Helper()
	var ids []string
	for _, n := range h.devices(sandbox).Net {
		ids = append(ids, n.ID)
	}
	return ids
}

func (h *host) wantDisks(sandbox string, want ...string) {
	h.t.Helper()
	if got := h.disks(sandbox); !slices.Equal(got, want) {
		h.t.Fatalf("disks %q, want %q", got, want)
	}
}

// attach calls start for a later container of the pod, which must answer with
// the address of the pod's shim.
func (s *shim) attach(id string, changes ...change) {
	s.h.t.Helper()
	if err := s.tryAttach(id, changes...); err != nil {
		s.h.t.Fatal(err)
	}
}

func (s *shim) tryAttach(id string, changes ...change) error {
	s.h.t.Helper()
	bundle := s.h.bundle(id, append([]change{inPod(s.id, id)}, changes...)...)
	address, err := s.h.command(bundle, "-id", id, "start").Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return fmt.Errorf("start %s: %w", id, err)
	}
	if want := "unix://" + socketOf(s.h.address, s.id); string(address) != want {
		return fmt.Errorf("start %s answered %q, want %q", id, address, want)
	}
	return nil
}

func isAlreadyExists(err error) bool { return errdefs.IsAlreadyExists(errgrpc.ToNative(err)) }

func isInvalidArgument(err error) bool { return errdefs.IsInvalidArgument(errgrpc.ToNative(err)) }

func base64Of(text string) string { return base64.StdEncoding.EncodeToString([]byte(text)) }
