// Command guest-image builds what the guest boots from.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v3"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := command().Run(ctx, os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "guest-image:", err)
		os.Exit(1)
	}
}

func command() *cli.Command {
	return &cli.Command{
		Name:  "guest-image",
		Usage: "build what the guest boots from",
		Flags: []cli.Flag{
			&cli.StringFlag{
				Name: "cache", Value: ".cache/debian",
				Usage: "private apt `DIR` for package lists and packages",
			},
		},
		Commands: []*cli.Command{buildCommand()},
	}
}
