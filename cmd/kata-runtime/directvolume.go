package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errhttp"
	"github.com/urfave/cli/v3"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/kata-cc/kata-cc/agentclient"
	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/hypervisor/clh"
	"github.com/kata-cc/kata-cc/internal/vsock"
	"github.com/kata-cc/kata-cc/mounts"
	"github.com/kata-cc/kata-cc/sandbox"
)

// directVolume is what CSI drivers call for volumes that go to a machine as
// devices.
func directVolume(stdout io.Writer) *cli.Command {
	path := &cli.StringFlag{Name: "volume-path", Usage: "`PATH` that containers mount the volume from", Required: true}
	vmDir := &cli.StringFlag{Name: "vm-dir", Usage: "`DIR` that holds a directory for each machine", Value: clh.DefaultDir}
	return &cli.Command{
		Name: "direct-volume", Usage: "give a volume to machines as a device",
		Commands: []*cli.Command{
			{
				Name: "add", Usage: "describe a volume, so that sandboxes take its device",
				Flags: []cli.Flag{path, &cli.StringFlag{Name: "mount-info", Usage: "`JSON` with volume-type, device, fstype, metadata, options", Required: true}},
				Action: func(_ context.Context, c *cli.Command) error {
					return addDirectVolume(c.String("volume-path"), c.String("mount-info"))
				},
			},
			{
				Name: "remove", Aliases: []string{"delete"}, Usage: "forget a volume",
				Flags: []cli.Flag{path},
				Action: func(_ context.Context, c *cli.Command) error {
					return os.RemoveAll(mounts.DirectVolumeDir(c.String("volume-path")))
				},
			},
			{
				Name: "stats", Usage: "tell how full a volume is that a sandbox uses",
				Flags: []cli.Flag{path, vmDir},
				Action: func(ctx context.Context, c *cli.Command) error {
					return withVolume(ctx, c.String("volume-path"), c.String("vm-dir"), func(ctx context.Context, agent *agentclient.Client, guestPath string) error {
						r, err := agent.GetVolumeStats(ctx, &agentpb.VolumeStatsRequest{VolumeGuestPath: guestPath})
						if err != nil {
							return err
						}
						text, err := protojson.MarshalOptions{UseProtoNames: true, UseEnumNumbers: true, EmitDefaultValues: true}.Marshal(r)
						if err != nil {
							return err
						}
						_, err = fmt.Fprintf(stdout, "%s\n", text)
						return err
					})
				},
			},
			{
				Name: "resize", Usage: "let a volume grow that a sandbox uses",
				Flags: []cli.Flag{
					path, &cli.StringFlag{Name: "state-dir", Usage: "`DIR` that holds a directory for each sandbox", Value: sandbox.DefaultStateDir},
					&cli.Uint64Flag{Name: "size", Usage: "new size in `BYTES`", Required: true},
				},
				Action: func(ctx context.Context, c *cli.Command) error {
					return resizeVolume(ctx, c.String("state-dir"), sandbox.ResizeRequest{VolumePath: c.String("volume-path"), Size: c.Uint64("size")})
				},
			},
		},
	}
}

// addDirectVolume writes the description of a volume, whole or not at all.
func addDirectVolume(path, info string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("direct-volume add: %q is not an absolute path: %w", path, errdefs.ErrInvalidArgument)
	}
	if _, err := mounts.ParseDirectVolume([]byte(info)); err != nil {
		return fmt.Errorf("direct-volume add: mount info of %s: %w", path, err)
	}
	dir := mounts.DirectVolumeDir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("direct-volume add: %w", err)
	}
	file := filepath.Join(dir, mounts.DirectVolumeFile)
	temp := filepath.Join(dir, "."+mounts.DirectVolumeFile)
	if err := errors.Join(os.WriteFile(temp, []byte(info), 0o600), os.Rename(temp, file)); err != nil {
		return fmt.Errorf("direct-volume add: %w", err)
	}
	return nil
}

// withVolume asks the agent of the sandbox that uses a volume.
func withVolume(ctx context.Context, path, vmDir string, ask func(context.Context, *agentclient.Client, string) error) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	id, guestPath, err := userOfVolume(path)
	if err != nil {
		return fmt.Errorf("direct-volume: %w", err)
	}
	agent, err := agentclient.Connect(ctx, func(ctx context.Context) (net.Conn, error) {
		return vsock.Dial(ctx, filepath.Join(vmDir, id, consoleSocket), sandbox.AgentPort)
	})
	if err != nil {
		return fmt.Errorf("direct-volume: sandbox %s: %w", id, err)
	}
	if err := errors.Join(ask(ctx, agent, guestPath), agent.Close()); err != nil {
		return fmt.Errorf("direct-volume: volume %s in sandbox %s: %w", path, id, err)
	}
	return nil
}

// resizeVolume has the shim of the sandbox that uses a volume let it grow.
func resizeVolume(ctx context.Context, stateDir string, r sandbox.ResizeRequest) error {
	ctx, cancel := context.WithTimeout(ctx, resizeTimeout)
	defer cancel()
	id, _, err := userOfVolume(r.VolumePath)
	if err != nil {
		return fmt.Errorf("direct-volume: %w", err)
	}
	socket, err := sandbox.MonitorPath(stateDir, id)
	if err == nil {
		err = post(ctx, socket, sandbox.ResizePath, r)
	}
	if err != nil {
		return fmt.Errorf("direct-volume: volume %s in sandbox %s: %w", r.VolumePath, id, err)
	}
	return nil
}

// post sends a request to a shim.
func post(ctx context.Context, socket, path string, request any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://shim"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
	answer, err := client.Do(r)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err = errors.Join(err, answer.Body.Close()); err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %w", bytes.TrimSpace(text), errhttp.ToNative(answer.StatusCode))
	}
	return err
}

// maxAnswer bounds what is read of a shim's answer, in bytes.
const maxAnswer = 64 << 10

// userOfVolume finds the sandbox that uses a volume and the volume's path there.
func userOfVolume(path string) (id, guestPath string, err error) {
	dir := mounts.DirectVolumeDir(path)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return "", "", fmt.Errorf("volume %s is not known: %w", path, errdefs.ErrNotFound)
	}
	if err != nil {
		return "", "", err
	}
	for _, e := range entries {
		if !sandboxForm.MatchString(e.Name()) || e.Name() == mounts.DirectVolumeFile {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		return e.Name(), string(data), err
	}
	return "", "", fmt.Errorf("no sandbox uses volume %s: %w", path, errdefs.ErrFailedPrecondition)
}
