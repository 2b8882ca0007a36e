// Command demo runs the example pod in a virtual machine and shows its life,
// from the image to the removal: each step is headed by the command a person
// would type, and fails the demo if it does not show what it must.
//
// KEEP=1 leaves the pod running until Ctrl-C and says how to look around; VMM
// chooses the virtual machine monitor (clh-qemu, cloud-hypervisor or a path).
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/kata-cc/kata-cc/test/cluster"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "\ndemo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	paths, err := cluster.FindPaths()
	if err != nil {
		return err
	}
	vmm := paths.ChooseVMM(os.Getenv("VMM"))
	if missing := paths.Missing(vmm); len(missing) > 0 {
		return fmt.Errorf("missing: %s", strings.Join(missing, ", "))
	}
	t := newTeller(os.Stdout)
	t.say("A node of its own: containerd, the tardev snapshotter, a bridge and a registry on loopback.")
	c, err := cluster.Start(ctx, cluster.Options{VMM: vmm})
	if err != nil {
		return err
	}
	t.cluster = c
	defer func() { err = errors.Join(err, finish(ctx, t)) }()
	t.say("Its directory is %s, the virtual machine monitor %s.", c.Dir, vmm.Path)
	return tell(ctx, t)
}

// tell goes through the steps and stops at the first that could not be done;
// a step that was done but did not show what it must is told at the end.
func tell(ctx context.Context, t *teller) error {
	s := &story{teller: t}
	before := []func(context.Context) error{
		s.image, s.layers, s.pod, s.lists, s.machine, s.guest, s.container, s.files, s.network,
	}
	for _, step := range before {
		if err := step(ctx); err != nil {
			if ctx.Err() != nil {
				return errors.New("interrupted")
			}
			fmt.Fprintf(t.out, "\n%s\n", t.cluster.Logs(25))
			return err
		}
	}
	if os.Getenv("KEEP") != "" {
		s.keep(ctx)
		ctx = context.WithoutCancel(ctx)
	}
	return s.removal(ctx)
}

// finish removes the node and makes sure that it is gone.
func finish(ctx context.Context, t *teller) error {
	whole := ctx.Err() == nil
	ctx = context.WithoutCancel(ctx)
	err := t.cluster.Close(ctx)
	left, censusErr := t.cluster.AwaitGone(ctx, nil)
	if len(left) > 0 {
		err = errors.Join(err, fmt.Errorf("the demo left this behind:\n%s", left))
	}
	if err = errors.Join(err, censusErr); err != nil {
		return err
	}
	if len(t.failed) > 0 && whole {
		return fmt.Errorf("did not show what it must:\n  %s", strings.Join(t.failed, "\n  "))
	}
	fmt.Fprintf(t.out, "\nNothing is left: 0 %s. Took %s.\n", strings.Join(cluster.Kinds, ", 0 "), time.Since(t.began).Round(time.Second))
	return nil
}
