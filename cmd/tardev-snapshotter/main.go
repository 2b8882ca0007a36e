// tardev-snapshotter serves the tardev snapshotter and differ to containerd as
// proxy plugins.
//
//	tardev-snapshotter [flags] [root [socket [containerd-socket]]]
//	tardev-snapshotter fsck [--repair] [--root directory]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "fsck" {
		os.Exit(fsck(os.Args[2:]))
	}
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "tardev-snapshotter:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	if err := serve(ctx, o); err != nil {
		log.G(ctx).WithError(err).Error("tardev-snapshotter failed")
		os.Exit(1)
	}
}
