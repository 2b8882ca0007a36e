// tardev-snapshotter serves the tardev snapshotter to containerd as a proxy plugin.
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
	"time"

	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/contrib/snapshotservice"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/kata-cc/kata-cc/tardev/snapshotter"
)

// stopTimeout is how long requests may go on after a signal to stop.
const stopTimeout = 10 * time.Second

const defaultRoot = "/var/lib/containerd/io.containerd.snapshotter.v1.tardev"

// options are those of the command line.
type options struct {
	root, socket, containerd, logLevel string
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "fsck" {
		os.Exit(fsck(os.Args[2:]))
	}
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		os.Exit(2) // flag has said why
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	if err := run(ctx, o); err != nil {
		log.G(ctx).WithError(err).Error("tardev-snapshotter failed")
		os.Exit(1)
	}
}

func parse(args []string) (options, error) {
	o := options{}
	f := flag.NewFlagSet("tardev-snapshotter", flag.ContinueOnError)
	f.StringVar(&o.root, "root", defaultRoot, "`directory` of metadata and layer files")
	f.StringVar(&o.socket, "address", "/run/containerd/tardev-snapshotter.sock", "unix `socket` to serve")
	f.StringVar(&o.containerd, "containerd-address", "/run/containerd/containerd.sock", "`socket` of the containerd whose content store holds the layers")
	f.StringVar(&o.logLevel, "log-level", "info", "least `level` of what is logged: trace, debug, info, warn or error")
	f.Usage = func() {
		fmt.Fprintln(f.Output(), "usage: tardev-snapshotter [flags] [root [socket [containerd-socket]]]")
		f.PrintDefaults()
	}
	if err := f.Parse(args); err != nil {
		return o, err
	}
	for i, to := range []*string{&o.root, &o.socket, &o.containerd} {
		if f.Arg(i) != "" {
			*to = f.Arg(i)
		}
	}
	if f.NArg() > 3 {
		f.Usage()
		return o, fmt.Errorf("%d arguments, 3 at most", f.NArg())
	}
	return o, nil
}

func run(ctx context.Context, o options) (err error) {
	if err = log.SetLevel(o.logLevel); err != nil {
		return err
	}
	content, conn, err := snapshotter.DialContent(o.containerd)
	if err != nil {
		return err
	}
	defer conn.Close()
	l, err := socketFor(o.socket)
	if err != nil {
		return err
	}
	defer l.Close()
	sn, err := snapshotter.New(ctx, o.root, content)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sn.Close()) }()

	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(sn))
	diffapi.RegisterDiffServer(server, sn.DiffService())
	alive := health.NewServer()
	healthpb.RegisterHealthServer(server, alive)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	log.G(ctx).WithFields(log.Fields{"root": o.root, "socket": o.socket, "containerd": o.containerd}).Info("serving")
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	log.G(ctx).Info("stopping")
	alive.Shutdown()
	// What is not done in time is broken off; the next start tidies up after it.
	force := time.AfterFunc(stopTimeout, server.Stop)
	defer force.Stop()
	server.GracefulStop()
	return <-served
}
