package main

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"

	"github.com/containerd/errdefs"
	"github.com/kata-cc/kata-cc/guest/image/debian"
	"github.com/urfave/cli/v3"
)

func toolCommand() *cli.Command {
	return &cli.Command{
		Name:      "tool",
		Usage:     "fetch a program from another Debian suite, without installing it",
		ArgsUsage: "PACKAGE",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: ".cache/bin", Usage: "`DIR` to write to"},
			&cli.StringFlag{Name: "suite", Value: "unstable", Usage: "Debian `SUITE` to take the package from; empty: this machine's own"},
			&cli.StringFlag{Name: "program", Usage: "`NAME` of the program in the package (default: the package's name)"},
		},
		Action: tool,
	}
}

func tool(ctx context.Context, c *cli.Command) error {
	name := c.Args().First()
	if name == "" || c.Args().Len() > 1 {
		return fmt.Errorf("tool wants the name of one package: %w", errdefs.ErrInvalidArgument)
	}
	program := c.String("program")
	if program == "" {
		program = name
	}
	apt, err := debian.Open(debian.Options{
		Dir: c.String("cache"), Suite: c.String("suite"), Architecture: runtime.GOARCH, Progress: os.Stderr,
	})
	if err != nil {
		return err
	}
	var file debian.File
	err = apt.Retry(ctx, func() (err error) {
		file, err = apt.Program(ctx, name, program)
		return err
	})
	if err != nil {
		return err
	}
	target := filepath.Join(c.String("output"), path.Base(file.Path))
	if err := debian.WriteProgram(target, file); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%s: %s %s\n", target, file.Package.Name, file.Package.Version)
	return nil
}
