package sandbox

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
)

func TestBudgetIsDividedOverPhases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
		defer cancel()
		b := newBudget([]phase{{"one", 1}, {"two", 3}, {"three", 6}})
		limits := map[string]time.Duration{}
		spend := func(name string, d time.Duration) func(context.Context) error {
			return func(ctx context.Context) error {
				deadline, _ := ctx.Deadline()
				limits[name] = time.Until(deadline)
				time.Sleep(d)
				return ctx.Err()
			}
		}
		if err := b.run(ctx, "one", spend("one", 4*time.Second)); err != nil {
			t.Fatal(err)
		}
		err := b.run(ctx, "two", spend("two", time.Minute))
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want deadline exceeded", err)
		}
		for _, want := range []string{"phase two had 32s of the 1m36s that were left", "phase two (one 4s, two 1m0s): "} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v does not say %q", err, want)
			}
		}
		// What the first left over went to the second: 3 of 9 parts of 96 s.
		if limits["one"] != 10*time.Second || limits["two"] != 32*time.Second {
			t.Errorf("limits are %v", limits)
		}
	})
}

func TestBudgetOfACallerThatSetsNone(t *testing.T) {
	b := newBudget(createPhases)
	err := b.run(t.Context(), "files", func(ctx context.Context) error {
		if _, ok := ctx.Deadline(); ok {
			t.Error("a limit out of nothing")
		}
		return errdefs.ErrUnavailable
	})
	if !errdefs.IsUnavailable(err) || !strings.HasPrefix(err.Error(), "phase files (files 0s): ") {
		t.Errorf("%v", err)
	}
}

func TestBudgetIsNotDividedTooFine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		b := newBudget(startPhases)
		err := b.run(ctx, "vmm", func(ctx context.Context) error {
			if deadline, _ := ctx.Deadline(); time.Until(deadline) != leastShare {
				t.Errorf("limit is %v, want %v", time.Until(deadline), leastShare)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}
