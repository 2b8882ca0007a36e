//go:build !debug_console

package main

import (
	"context"
	"log/slog"

	"github.com/kata-cc/kata-cc/guest/reaper"
)

// serveConsole refuses: the host chooses the kernel's command line, so whether
// there is a root shell must not hang on a word there.
func serveConsole(context.Context, uint32, *reaper.Reaper) error {
	slog.Warn("no debug console: this agent was built without one")
	return nil
}
