package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/kata-cc/kata-cc/guest/image"
	"github.com/kata-cc/kata-cc/guest/image/debian"
	"github.com/urfave/cli/v3"
)

// defaultModified stands in for SOURCE_DATE_EPOCH: 2024-01-01.
const defaultModified = 1704067200

func buildCommand() *cli.Command {
	return &cli.Command{
		Name:  "build",
		Usage: "write kernel, root disk with its ramdisk, and manifest",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: ".cache/guest", Usage: "`DIR` to write to"},
			&cli.StringFlag{Name: "agent", Usage: "the production agent's executable `FILE` (default: build " + image.AgentPackage + ")"},
			&cli.StringFlag{Name: "compression", Value: string(image.Uncompressed), Usage: "none, gzip or zstd"},
			&cli.StringFlag{Name: "suite", Usage: "Debian `SUITE` to take packages from (default: this machine's apt sources)"},
		},
		Action: build,
	}
}

func build(ctx context.Context, c *cli.Command) error {
	compression, err := image.ParseCompression(c.String("compression"))
	if err != nil {
		return err
	}
	modified, err := sourceDate()
	if err != nil {
		return err
	}
	apt, err := debian.Open(debian.Options{
		Dir: c.String("cache"), Suite: c.String("suite"), Architecture: "amd64", Progress: os.Stderr,
	})
	if err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "building the guest's programs")
	o := image.Options{Apt: apt, Compression: compression, Modified: modified, Progress: os.Stderr}
	if o.Opener, err = image.BuildProgram(ctx, image.OpenerPackage); err != nil {
		return err
	}
	if o.Agent, err = agentFile(ctx, c.String("agent")); err != nil {
		return err
	}
	dir := c.String("output")
	production, err := image.Build(ctx, o)
	if err != nil {
		return err
	}
	if err = production.WriteTo(dir); err != nil {
		return err
	}
	report(dir, production)
	if o.Agent, err = image.BuildProgram(ctx, image.AgentPackage, image.DebugTag); err != nil {
		return err
	}
	o.Debug = true
	debug, err := image.Build(ctx, o)
	if err != nil {
		return err
	}
	dir = filepath.Join(dir, image.DebugDir)
	if err = debug.WriteGuestTo(dir); err != nil {
		return err
	}
	report(dir, debug)
	return nil
}

func report(dir string, img *image.Image) {
	m := img.Manifest
	fmt.Fprintf(os.Stderr, "%s: kernel %s (%.1f MiB), root disk %.1f MiB, initrd %.1f MiB (%s), %d files of %d packages\n",
		dir, m.Kernel.Release, mebibytes(len(img.Kernel)), mebibytes(len(img.Root.Disk)), mebibytes(len(img.Initrd)),
		m.Initrd.Compression, len(m.Files), len(m.Packages))
}

func mebibytes(n int) float64 { return float64(n) / (1 << 20) }

func agentFile(ctx context.Context, file string) ([]byte, error) {
	if file != "" {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read the agent: %w", err)
		}
		return data, nil
	}
	return image.BuildProgram(ctx, image.AgentPackage)
}

// sourceDate is the time stamp of the files in the image
// (reproducible-builds.org/specs/source-date-epoch).
func sourceDate() (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		return time.Unix(defaultModified, 0), nil
	}
	seconds, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH %q is no number of seconds: %w", text, errdefs.ErrInvalidArgument)
	}
	return time.Unix(int64(seconds), 0), nil
}
