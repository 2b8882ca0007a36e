package network

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"
)

func TestBusyKernelIsAskedAgain(t *testing.T) {
	for name, tc := range map[string]struct {
		busy  int // answers of EBUSY
		then  error
		calls int
		want  error
	}{
		"not busy":     {0, nil, 1, nil},
		"twice":        {2, nil, 3, nil},
		"then refused": {1, unix.EEXIST, 2, unix.EEXIST},
		"for ever":     {1000, nil, busyAttempts, unix.EBUSY},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				calls := 0
				err := whileBusy(t.Context(), func() error {
					if calls++; calls <= tc.busy {
						return unix.EBUSY
					}
					return tc.then
				})
				if !errors.Is(err, tc.want) || calls != tc.calls {
					t.Errorf("%d calls, %v; want %d, %v", calls, err, tc.calls, tc.want)
				}
				ctx, cancel := context.WithCancelCause(t.Context())
				cancel(errors.New("enough"))
				if err := whileBusy(ctx, func() error { return unix.EBUSY }); err == nil || err.Error() != "enough" {
					t.Errorf("after the end: %v", err)
				}
			})
		})
	}
}
