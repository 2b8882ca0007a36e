package main

import (
	"context"
	"fmt"
	"os"
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
			&cli.StringFlag{Name: "agent", Usage: "the agent's executable `FILE` (default: build " + image.AgentPackage + ")"},
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
	agent, err := agentFile(ctx, c.String("agent"))
	if err != nil {
		return err
	}
	opener, err := image.BuildProgram(ctx, image.OpenerPackage)
	if err != nil {
		return err
	}
	apt, err := debian.Open(debian.Options{
		Dir: c.String("cache"), Suite: c.String("suite"), Architecture: "amd64", Progress: os.Stderr,
	})
	if err != nil {
		return err
	}
	img, err := image.Build(ctx, image.Options{
		Apt: apt, Agent: agent, Opener: opener, Compression: compression, Modified: modified, Progress: os.Stderr,
	})
	if err != nil {
		return err
	}
	if err := img.WriteTo(c.String("output")); err != nil {
		return err
	}
	m := img.Manifest
	fmt.Fprintf(os.Stderr, "%s: kernel %s (%.1f MiB), root disk %.1f MiB, initrd %.1f MiB (%s), %d files of %d packages\n",
		c.String("output"), m.Kernel.Release, mebibytes(len(img.Kernel)), mebibytes(len(img.Root.Disk)), mebibytes(len(img.Initrd)),
		m.Initrd.Compression, len(m.Files), len(m.Packages))
	return nil
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
	fmt.Fprintln(os.Stderr, "building the agent")
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
