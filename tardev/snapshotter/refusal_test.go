package snapshotter

import (
	"context"
	"testing"

	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/errdefs"
)

func TestWhatCannotBeDone(t *testing.T) {
	c := newContent(t)
	_, chains := c.image(t, goldenTar())
	s := newSnapshotter(t, t.TempDir(), c)
	ctx := t.Context()
	name := "n/1/" + chains[0].String()
	if err := unpack(t, s, name, "", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Prepare(ctx, "n/2/c", name); err != nil {
		t.Fatal(err)
	}
	for what, check := range map[string]struct {
		err   error
		class func(error) bool
	}{
		"container without parent": {prepare(s, "n/3/c", ""), errdefs.IsFailedPrecondition},
		"parent unknown":           {prepare(s, "n/3/c", "none"), errdefs.IsNotFound},
		"parent not committed":     {prepare(s, "n/3/c", "n/2/c"), errdefs.IsFailedPrecondition},
		"key taken":                {prepare(s, "n/2/c", name), errdefs.IsAlreadyExists},
		"name taken":               {prepare(s, name, ""), errdefs.IsAlreadyExists},
		"commit of a container":    {s.Commit(ctx, "n/4/x", "n/2/c"), errdefs.IsNotImplemented},
		"commit of committed":      {s.Commit(ctx, "n/4/x", name), errdefs.IsFailedPrecondition},
		"commit of none":           {s.Commit(ctx, "n/4/x", "none"), errdefs.IsNotFound},
		"mounts of committed":      {mounts(s, name), errdefs.IsFailedPrecondition},
		"mounts of none":           {mounts(s, "none"), errdefs.IsNotFound},
		"view of none":             {view(s, "n/3/v", "none"), errdefs.IsNotFound},
		"view without parent":      {view(s, "n/3/v", ""), errdefs.IsFailedPrecondition},
		"stat of none":             {stat(s, "none"), errdefs.IsNotFound},
		"remove of none":           {s.Remove(ctx, "none"), errdefs.IsNotFound},
		"remove of a parent":       {s.Remove(ctx, name), errdefs.IsFailedPrecondition},
		"walk with a bad filter":   {walk(s, "kind="), errdefs.IsInvalidArgument},
	} {
		if !check.class(check.err) {
			t.Errorf("%s: %v", what, check.err)
		}
	}
}

func prepare(s *Snapshotter, key, parent string) error {
	_, err := s.Prepare(context.Background(), key, parent)
	return err
}

func mounts(s *Snapshotter, key string) error {
	_, err := s.Mounts(context.Background(), key)
	return err
}

func view(s *Snapshotter, key, parent string) error {
	_, err := s.View(context.Background(), key, parent)
	return err
}

func stat(s *Snapshotter, key string) error {
	_, err := s.Stat(context.Background(), key)
	return err
}

func walk(s *Snapshotter, filter string) error {
	return s.Walk(context.Background(), func(context.Context, snapshots.Info) error { return nil }, filter)
}
