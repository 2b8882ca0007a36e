// Command kata-runtime is the operator's tool: a root shell in the guest of a
// sandbox, and answers to whether and how this machine can run sandboxes.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/urfave/cli/v3"

	"github.com/kata-cc/kata-cc/configuration"
	"github.com/kata-cc/kata-cc/hypervisor/clh"
)

func main() {
	err := command(os.Stdin, os.Stdout, os.Stderr).Run(context.Background(), os.Args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "kata-runtime:", err)
		os.Exit(1)
	}
}

// command is the program with the streams that it uses.
func command(stdin *os.File, stdout, stderr io.Writer) *cli.Command {
	config := &cli.StringFlag{Name: "config", Aliases: []string{"kata-config"}, Usage: "configuration `FILE` (default: as the shim finds it)"}
	load := func(c *cli.Command) (*configuration.Config, error) {
		path, err := configuration.Find(c.String("config"))
		if err != nil {
			return nil, err
		}
		return configuration.Load(path)
	}
	return &cli.Command{
		Name:            "kata-runtime",
		Usage:           "look into and after sandboxes of kata-cc",
		Version:         versions().Version,
		HideHelpCommand: true,
		Writer:          stdout,
		ErrWriter:       stderr,
		ExitErrHandler:  func(context.Context, *cli.Command, error) {}, // main prints and exits
		Flags:           []cli.Flag{config},
		Commands: []*cli.Command{
			{
				Name:      "exec",
				Usage:     "open a root shell in the guest of a sandbox, by its debug console",
				ArgsUsage: "SANDBOX",
				Description: "SANDBOX is the id, or a beginning of it that only one sandbox has. The guest has a\n" +
					"debug console if the configuration says debug_console_enabled = true when the sandbox\nis made.",
				Flags: []cli.Flag{
					&cli.Uint32Flag{Name: "kata-debug-port", Usage: "vsock `PORT` of the console", Value: configuration.DebugConsolePort},
					&cli.StringFlag{Name: "vm-dir", Usage: "`DIR` that holds a directory for each machine", Value: clh.DefaultDir},
				},
				Action: func(ctx context.Context, c *cli.Command) error {
					if c.Args().Len() != 1 {
						return errors.New("exec: name one sandbox")
					}
					return execute(ctx, target{Dir: c.String("vm-dir"), Sandbox: c.Args().First(), Port: c.Uint32("kata-debug-port")}, stdin, stdout)
				},
			},
			{
				Name: "check", Aliases: []string{"kata-check"},
				Usage: "find out whether this machine can run sandboxes",
				Action: func(_ context.Context, c *cli.Command) error {
					cfg, err := load(c)
					return check(stdout, thisHost(), cfg, err)
				},
			},
			{
				Name: "env", Aliases: []string{"kata-env"},
				Usage: "print configuration and versions",
				Flags: []cli.Flag{&cli.BoolFlag{Name: "json", Usage: "print JSON instead of TOML"}},
				Action: func(ctx context.Context, c *cli.Command) error {
					cfg, err := load(c)
					if err != nil {
						return err
					}
					return printEnvironment(stdout, environment(ctx, cfg), c.Bool("json"))
				},
			},
			directVolume(stdout),
			{
				Name:  "version",
				Usage: "print versions",
				Action: func(context.Context, *cli.Command) error {
					v := versions()
					_, err := fmt.Fprintf(stdout, "kata-runtime  : %s\n   commit   : %s\n   OCI specs: %s\n", v.Version, v.Commit, v.OCI)
					return err
				},
			},
		},
	}
}
