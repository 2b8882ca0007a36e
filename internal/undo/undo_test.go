package undo_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/kata-cc/kata-cc/internal/undo"
)

func TestRunTakesBackTheLastEffectFirst(t *testing.T) {
	var s undo.Stack
	var order []int
	for i := range 3 {
		s.Add(func(context.Context) error { order = append(order, i); return nil })
	}
	if err := s.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := []int{2, 1, 0}; !slices.Equal(order, want) {
		t.Errorf("steps ran as %v, want %v", order, want)
	}
	if err := s.Run(t.Context()); err != nil || len(order) != 3 {
		t.Errorf("a second Run ran steps again: %v, %v", order, err)
	}
}

func TestRunWalksTheWholeStackAndKeepsWhatFailed(t *testing.T) {
	var s undo.Stack
	busy := true
	var calls []string
	step := func(name string, err func() error) {
		s.Add(func(context.Context) error { calls = append(calls, name); return err() })
	}
	step("directory", func() error { return nil })
	step("mount", func() error {
		if busy {
			return errors.New("unmount: device busy")
		}
		return nil
	})
	step("process", func() error { return nil })

	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "device busy") {
		t.Fatalf("Run = %v, want the failed step's error", err)
	}
	busy = false
	if err := s.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := []string{"process", "mount", "directory", "mount"}; !slices.Equal(calls, want) {
		t.Errorf("steps ran as %v, want %v", calls, want)
	}
}

func TestOnErrorOutlivesTheRequestAndJoinsErrors(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	work := func() (err error) {
		var s undo.Stack
		defer s.OnError(ctx, &err)
		s.Add(func(ctx context.Context) error {
			if ctx.Err() != nil {
				t.Error("the cleanup got the request's dead context")
			}
			return errors.New("cleanup failed")
		})
		cancel()
		return errors.New("request failed")
	}
	err := work()
	for _, want := range []string{"request failed", "cleanup failed"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
}

func TestForgetKeepsEffects(t *testing.T) {
	var s undo.Stack
	s.Add(func(context.Context) error { t.Error("a forgotten step ran"); return nil })
	s.Forget()
	if err := s.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
}
