//go:build debug_console

package main

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/kata-cc/kata-cc/guest/console"
	"github.com/kata-cc/kata-cc/guest/reaper"
	"github.com/kata-cc/kata-cc/guest/rpc"
)

// serveConsole serves the debug console, which only the debug image's agent has.
func serveConsole(ctx context.Context, port uint32, children *reaper.Reaper) error {
	l, err := rpc.Listen(fmt.Sprintf("vsock://-1:%d", port))
	if err != nil {
		return err
	}
	go func() {
		if err := console.Serve(ctx, l, children); err != nil {
			slog.Error("debug console ended", "error", err)
		}
	}()
	return nil
}
