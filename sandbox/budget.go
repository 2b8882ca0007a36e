package sandbox

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/log"
)

// phase is a part of one Create and its share of the time.
type phase struct {
	name   string
	weight int
}

// startPhases are the parts of a sandbox's start; "container" is what the first
// container then has. The guest's kernel takes longest, and longest by far where
// it is emulated.
var startPhases = []phase{{"network", 1}, {"vmm", 2}, {"boot", 4}, {"agent", 12}, {"guest", 3}, {"ports", 1}, {"container", 7}}

// createPhases are the parts of a container's creation.
var createPhases = []phase{{"size", 1}, {"layers", 4}, {"files", 2}, {"agent_create", 4}}

// budget divides the time that a caller gave for one request over its phases, and
// keeps what each has taken. A phase may take its share of what is left, so what
// one leaves over goes to those after it, and leastShare in any case. A caller that set no limit sets none
// here; the parts have limits of their own.
type budget struct {
	began  time.Time
	phases []phase
	took   []taken
	fields log.Fields
}

type taken struct {
	name string
	time time.Duration
}

func newBudget(phases []phase) *budget {
	return &budget{began: time.Now(), phases: phases, fields: log.Fields{}}
}

// run does what belongs to a phase. Phases come in their order, and may be left
// out. An error says what each has taken.
func (b *budget) run(ctx context.Context, name string, do func(context.Context) error) error {
	ctx, cancel := b.limit(ctx, name)
	defer cancel()
	start := time.Now()
	err := do(ctx)
	took := time.Since(start)
	b.took = append(b.took, taken{name, took})
	b.fields[name] = took
	if err == nil {
		return nil
	}
	if limit := context.Cause(ctx); ctx.Err() != nil && !errors.Is(err, limit) {
		err = fmt.Errorf("%w: %w", err, limit)
	}
	return fmt.Errorf("phase %s (%s): %w", name, b, err)
}

// limit gives the phase its share of the time that is left.
func (b *budget) limit(ctx context.Context, name string) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	for len(b.phases) > 0 && b.phases[0].name != name {
		b.phases = b.phases[1:]
	}
	if !ok || len(b.phases) == 0 {
		return ctx, func() {}
	}
	all := 0
	for _, p := range b.phases {
		all += p.weight
	}
	left := time.Until(deadline)
	share := max(leastShare, left*time.Duration(b.phases[0].weight)/time.Duration(all))
	return context.WithTimeoutCause(ctx, share, fmt.Errorf("phase %s had %v of the %v that were left: %w",
		name, share.Round(time.Millisecond), left.Round(time.Millisecond), context.DeadlineExceeded))
}

// String tells how long each phase took: "network 12ms, vmm 40ms".
func (b *budget) String() string {
	var parts []string
	for _, t := range b.took {
		parts = append(parts, fmt.Sprintf("%s %v", t.name, t.time.Round(time.Millisecond)))
	}
	return strings.Join(parts, ", ")
}

// report logs the phases of a request that succeeded.
func (b *budget) report(ctx context.Context, message string) {
	b.fields["duration"] = time.Since(b.began)
	log.G(ctx).WithFields(b.fields).Info(message)
}
