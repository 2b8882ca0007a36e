// Command tardev makes layer files of image layers and looks into them: what is
// in one, whether its tree is sound, which root hash a policy must name.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/urfave/cli/v3"
	"golang.org/x/sys/unix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if err := command(os.Stdin, os.Stdout, os.Stderr).Run(ctx, os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "tardev:", err)
		os.Exit(1)
	}
}

// command is the program with the streams that it uses.
func command(stdin io.Reader, stdout, stderr io.Writer) *cli.Command {
	rootHash := &cli.StringFlag{Name: "root-hash", Usage: "the `HASH` that the layer must have, 64 hexadecimal digits"}
	return &cli.Command{
		Name:            "tardev",
		Usage:           "make and examine layer files",
		HideHelpCommand: true,
		Writer:          stdout,
		ErrWriter:       stderr,
		ExitErrHandler:  func(context.Context, *cli.Command, error) {}, // main prints and exits
		Commands: []*cli.Command{
			{
				Name: "build", ArgsUsage: "BLOB FILE",
				Usage:       "make a layer file of a layer's blob",
				Description: "BLOB is a tar, plain or compressed with gzip or zstd; - is the standard input. What\nthe layer file cannot hold of it is told on the standard error, a line each.",
				Action: func(ctx context.Context, c *cli.Command) error {
					args, err := arguments(c, 2)
					if err != nil {
						return err
					}
					return build(ctx, args[0], args[1], stdin, stdout, stderr)
				},
			},
			{
				Name: "verify", ArgsUsage: "FILE",
				Usage: "check every block of a layer file against a root hash",
				Flags: []cli.Flag{rootHash},
				Action: func(ctx context.Context, c *cli.Command) error {
					args, err := arguments(c, 1)
					if err != nil {
						return err
					}
					if c.String("root-hash") == "" {
						return errors.New("verify: give the root hash: without it a changed file and its changed tree agree")
					}
					return verify(ctx, args[0], c.String("root-hash"), stdout)
				},
			},
			{
				Name: "inspect", ArgsUsage: "FILE",
				Usage: "list the files of a layer, what it lost of its tar, its sizes and its root hash",
				Action: func(ctx context.Context, c *cli.Command) error {
					args, err := arguments(c, 1)
					if err != nil {
						return err
					}
					return inspect(ctx, args[0], stdout)
				},
			},
			{
				Name: "extract", ArgsUsage: "FILE DIR",
				Usage:       "unpack a layer into a new directory",
				Description: "With --root-hash every block is checked as it is read. Owners and devices need root;\nwithout it files belong to the caller and devices are named and left out.",
				Flags:       []cli.Flag{rootHash},
				Action: func(_ context.Context, c *cli.Command) error {
					args, err := arguments(c, 2)
					if err != nil {
						return err
					}
					return extract(args[0], args[1], c.String("root-hash"), stderr)
				},
			},
			{
				Name: "layer-cache", ArgsUsage: "IMAGE|OCI-DIR",
				Usage:       "write the root hash of every layer of an image, by its diff id",
				Description: "The argument is the name of an image in a registry or, with --containerd, in its image\nstore, or a directory in the OCI image layout. Layers that the file has are not computed again.",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "layers-cache.json", Usage: "the `FILE` to write or add to"},
					&cli.BoolFlag{Name: "insecure", Usage: "speak plain HTTP to the registry"},
					&cli.StringFlag{Name: "containerd", Usage: "read the image from the containerd at `SOCKET`, such as /run/containerd/containerd.sock"},
					&cli.StringFlag{Name: "namespace", Aliases: []string{"n"}, Value: "k8s.io", Usage: "containerd's `NAMESPACE`"},
					&cli.StringFlag{Name: "platform", Value: "linux/amd64", Usage: "`OS/ARCH` to choose of an image for several"},
				},
				Action: func(ctx context.Context, c *cli.Command) error {
					args, err := arguments(c, 1)
					if err != nil {
						return err
					}
					return layerCache(ctx, cacheOptions{
						Image: args[0], Output: c.String("output"), Insecure: c.Bool("insecure"), Platform: c.String("platform"),
						Containerd: c.String("containerd"), Namespace: c.String("namespace"),
					}, stdout, stderr)
				},
			},
		},
	}
}

// arguments gives the n arguments that a command has to have.
func arguments(c *cli.Command, n int) ([]string, error) {
	if c.Args().Len() != n {
		return nil, fmt.Errorf("%s: want %s", c.Name, c.ArgsUsage)
	}
	return c.Args().Slice(), nil
}
