package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/tardev/snapshotter"
)

// fsck checks a store that no snapshotter serves, and returns the exit status: 0
// if all is well, 1 if something is wrong, 2 if it cannot tell.
func fsck(args []string) int {
	f := flag.NewFlagSet("tardev-snapshotter fsck", flag.ContinueOnError)
	root := f.String("root", defaultRoot, "`directory` of metadata and layer files")
	repair := f.Bool("repair", false, "remove damaged layer files and move unreadable metadata away; the images are then to be removed and pulled again")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if f.NArg() > 0 {
		f.Usage()
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	var problems int
	files, err := snapshotter.Check(ctx, *root, *repair, func(p snapshotter.Problem) {
		problems++
		fmt.Printf("%s: snapshot %q: %v\n", p.Path, p.Snapshot, p.Err)
		if p.Repaired != "" {
			fmt.Printf("%s: %s\n", p.Path, p.Repaired)
		}
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	fmt.Printf("%d layer files read, %d problems\n", files, problems)
	if problems > 0 {
		return 1
	}
	return 0
}
