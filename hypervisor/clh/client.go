package clh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/hypervisor/clh/api"
)

// client calls the VMM's API: one call at a time, as the VMM carries out one at
// a time, each bounded and ended by the VMM's death.
type client struct {
	api      *api.Client
	turn     chan struct{}   // holds one token
	lifetime context.Context // ends, with ErrGone as its cause, when the VMM has exited
}

func newClient(socket string, lifetime context.Context) *client {
	// No error is possible: there are no options that fail.
	a, _ := api.NewClient("http://localhost/api/v1", api.WithHTTPClient(wire{socket}))
	c := &client{api: a, turn: make(chan struct{}, 1), lifetime: lifetime}
	c.turn <- struct{}{}
	return c
}

// call makes one call and decodes its answer into answer unless that is nil.
// Waiting for earlier calls does not count against timeout.
func (c *client) call(ctx context.Context, endpoint string, timeout time.Duration, answer any,
	do func(context.Context) (*http.Response, error)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(c.lifetime, func() { cancel(hypervisor.ErrGone) })()
	select {
	case <-c.turn:
	case <-ctx.Done():
		return fmt.Errorf("%s: wait for the call before it: %w", endpoint, context.Cause(ctx))
	}
	defer func() { c.turn <- struct{}{} }()
	late := fmt.Errorf("no answer within %v: %w", timeout, context.DeadlineExceeded)
	ctx, stop := context.WithTimeoutCause(ctx, timeout, late)
	defer stop()
	resp, err := do(ctx)
	if err != nil {
		return c.explain(ctx, endpoint, err)
	}
	return decode(endpoint, resp, answer)
}

// explain turns a failure of the connection into what is behind it: the end of
// the call's time or of the VMM, which a broken connection announces.
func (c *client) explain(ctx context.Context, endpoint string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", endpoint, context.Cause(ctx))
	}
	select {
	case <-c.lifetime.Done():
		return fmt.Errorf("%s: %w", endpoint, hypervisor.ErrGone)
	case <-time.After(dyingTimeout):
		return fmt.Errorf("%s: %w: %w", endpoint, err, errdefs.ErrUnavailable)
	}
}

func decode(endpoint string, resp *http.Response, answer any) error {
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("%s: read the answer: %w", endpoint, err)
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNoContent {
		return newAPIError(endpoint, resp.StatusCode, body)
	}
	if answer == nil {
		return nil
	}
	if resp.StatusCode == http.StatusNoContent {
		return fmt.Errorf("%s: answered without the body that was expected: %w", endpoint, errdefs.ErrFailedPrecondition)
	}
	if err := json.Unmarshal(body, answer); err != nil {
		return fmt.Errorf("%s: decode the answer: %w: %w", endpoint, err, errdefs.ErrDataLoss)
	}
	return nil
}

func (c *client) ping(ctx context.Context, timeout time.Duration) (p api.VmmPingResponse, err error) {
	err = c.call(ctx, "vmm.ping", timeout, &p, func(ctx context.Context) (*http.Response, error) { return c.api.Ping(ctx) })
	return p, err
}

func (c *client) info(ctx context.Context, timeout time.Duration) (i api.VmInfo, err error) {
	err = c.call(ctx, "vm.info", timeout, &i, func(ctx context.Context) (*http.Response, error) { return c.api.VmInfo(ctx) })
	return i, err
}

func (c *client) create(ctx context.Context, timeout time.Duration, conf api.VmConfig) error {
	return c.call(ctx, "vm.create", timeout, nil, func(ctx context.Context) (*http.Response, error) { return c.api.CreateVM(ctx, conf) })
}

func (c *client) boot(ctx context.Context, timeout time.Duration) error {
	return c.call(ctx, "vm.boot", timeout, nil, func(ctx context.Context) (*http.Response, error) { return c.api.BootVM(ctx) })
}

// plugNet is addNet for a machine that runs, which answers where it is.
func (c *client) plugNet(ctx context.Context, timeout time.Duration, n api.NetConfig, tap *os.File) (p api.PciDeviceInfo, err error) {
	err = c.call(withRights(ctx, []*os.File{tap}), "vm.add-net", timeout, &p,
		func(ctx context.Context) (*http.Response, error) { return c.api.AddNet(ctx, n) })
	return p, err
}

func (c *client) addNet(ctx context.Context, timeout time.Duration, n api.NetConfig, tap *os.File) error {
	return c.call(withRights(ctx, []*os.File{tap}), "vm.add-net", timeout, nil,
		func(ctx context.Context) (*http.Response, error) { return c.api.AddNet(ctx, n) })
}

func (c *client) addDisk(ctx context.Context, timeout time.Duration, d api.DiskConfig) (p api.PciDeviceInfo, err error) {
	err = c.call(ctx, "vm.add-disk", timeout, &p, func(ctx context.Context) (*http.Response, error) { return c.api.AddDisk(ctx, d) })
	return p, err
}

func (c *client) removeDevice(ctx context.Context, timeout time.Duration, id string) error {
	return c.call(ctx, "vm.remove-device", timeout, nil,
		func(ctx context.Context) (*http.Response, error) {
			return c.api.RemoveDevice(ctx, api.VmRemoveDevice{Id: &id})
		})
}

func (c *client) resize(ctx context.Context, timeout time.Duration, r api.VmResize) error {
	return c.call(ctx, "vm.resize", timeout, nil, func(ctx context.Context) (*http.Response, error) { return c.api.ResizeVM(ctx, r) })
}

// shutdown ends the VMM. That it goes away without an answer is success.
func (c *client) shutdown(ctx context.Context, timeout time.Duration) error {
	err := c.call(ctx, "vmm.shutdown", timeout, nil, func(ctx context.Context) (*http.Response, error) { return c.api.ShutdownVMM(ctx) })
	if errors.Is(err, hypervisor.ErrGone) {
		return nil
	}
	return err
}
