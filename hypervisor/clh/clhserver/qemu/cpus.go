package qemu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver"
)

// cpuSlot is a place for a processor as query-hotpluggable-cpus tells of it.
// Source: QEMU's qapi/machine.json.
type cpuSlot struct {
	Type  string   `json:"type"` // the driver that fits
	Props cpuPlace `json:"props"`
	Path  string   `json:"qom-path"` // of the processor that is there, "" for none
}

// cpuPlace is a place in the machine's topology. All that QEMU says of it goes
// back to QEMU when a processor is plugged there; which of them it says depends on
// the machine.
type cpuPlace struct {
	Node   *int `json:"node-id,omitempty"`
	Socket *int `json:"socket-id,omitempty"`
	Die    *int `json:"die-id,omitempty"`
	Core   *int `json:"core-id,omitempty"`
	Thread *int `json:"thread-id,omitempty"`
}

func (a cpuPlace) compare(b cpuPlace) int {
	number := func(p *int) int {
		if p == nil {
			return 0
		}
		return *p
	}
	return cmp.Or(
		cmp.Compare(number(a.Socket), number(b.Socket)), cmp.Compare(number(a.Die), number(b.Die)),
		cmp.Compare(number(a.Core), number(b.Core)), cmp.Compare(number(a.Thread), number(b.Thread)),
	)
}

// cpu is the device argument of a processor.
type cpu struct {
	Driver string `json:"driver"`
	ID     string `json:"id"`
	cpuPlace
}

// errKept is why a translated machine keeps its processors: QEMU never gives back
// what its translator has for one. A machine that plugs more than maxcpus in its
// life is aborted, and 7.2 frees twice what it keeps of one that was unplugged.
var errKept = errors.New("QEMU cannot take processors away from a translated machine")

// SetVCPUs plugs processors, or asks the guest to let go of the last ones, which
// only KVM's can. A plugged one is offline until the guest brings it into use.
func (b *Backend) SetVCPUs(ctx context.Context, n int) error {
	vm, err := b.running()
	if err != nil {
		return err
	}
	return vm.setVCPUs(ctx, n)
}

func (m *machine) setVCPUs(ctx context.Context, n int) error {
	slots, err := m.cpuSlots(ctx)
	if err != nil {
		return err
	}
	var plugged, free []int
	for i, s := range slots {
		if s.Path != "" {
			plugged = append(plugged, i)
		} else {
			free = append(free, i)
		}
	}
	// Some may be there that a plug which failed has left.
	more := max(0, n-len(plugged))
	switch {
	case m.leavingCPUs(slots):
		return clhserver.ErrPending
	case n < m.vcpus && m.accel == TCG:
		return errKept
	case n < m.vcpus:
		err = m.unplugCPUs(ctx, slots, plugged[n:])
	case more > len(free):
		return fmt.Errorf("the machine has room for %d more vCPUs, not %d", len(free), more)
	default:
		err = m.plugCPUs(ctx, slots, free[:more])
	}
	if err == nil {
		m.vcpus = n
	}
	return err
}

// cpuSlots lists the places of the machine in their order, which is that of the
// guest's numbers.
func (m *machine) cpuSlots(ctx context.Context) (slots []cpuSlot, err error) {
	if err = m.run(ctx, "query-hotpluggable-cpus", nil, &slots); err != nil {
		return nil, err
	}
	slices.SortFunc(slots, func(a, b cpuSlot) int { return a.Props.compare(b.Props) })
	return slots, nil
}

// leavingCPUs tells whether a processor is there that the guest was asked to let
// go of.
func (m *machine) leavingCPUs(slots []cpuSlot) bool {
	m.sizing.Lock()
	defer m.sizing.Unlock()
	m.leaving = slices.DeleteFunc(m.leaving, func(path string) bool {
		return !slices.ContainsFunc(slots, func(s cpuSlot) bool { return s.Path == path })
	})
	return len(m.leaving) > 0
}

// plugCPUs fills the slots of these numbers.
func (m *machine) plugCPUs(ctx context.Context, slots []cpuSlot, numbers []int) error {
	for i, number := range numbers {
		s := slots[number]
		id := "cpu" + strconv.Itoa(number)
		if err := m.run(ctx, "device_add", cpu{Driver: s.Type, ID: id, cpuPlace: s.Props}, nil); err != nil {
			m.takeBackCPUs(numbers[:i+1])
			return fmt.Errorf("plug vCPU %d: %w", number, err)
		}
	}
	return nil
}

// takeBackCPUs has the guest let go of processors that came before one failed,
// which may be there if only QEMU's answer was lost. Those of a translated machine
// stay, offline, for the next time.
func (m *machine) takeBackCPUs(numbers []int) {
	if m.accel == TCG {
		return
	}
	ctx := context.Background()
	slots, err := m.cpuSlots(ctx)
	if err != nil {
		return // the session is over, and with it the machine
	}
	numbers = slices.DeleteFunc(slices.Clone(numbers), func(n int) bool { return slots[n].Path == "" })
	_ = m.unplugCPUs(ctx, slots, numbers) // what stays is pending, and told so
}

// unplugCPUs asks the guest to let go of the processors in the slots, the last
// first. QEMU has none for those that it started with but their paths.
func (m *machine) unplugCPUs(ctx context.Context, slots []cpuSlot, numbers []int) error {
	for _, number := range slices.Backward(numbers) {
		path := slots[number].Path
		if err := m.run(ctx, "device_del", map[string]string{"id": path}, nil); err != nil {
			return fmt.Errorf("unplug vCPU %d: %w", number, err)
		}
		m.sizing.Lock()
		m.leaving = append(m.leaving, path)
		m.sizing.Unlock()
	}
	return nil
}

// unplugAgain asks a guest that has just been reset for the processors that the
// one before was asked for.
func (m *machine) unplugAgain() {
	m.sizing.Lock()
	paths := slices.Clone(m.leaving)
	m.sizing.Unlock()
	for _, path := range paths {
		_ = m.run(context.Background(), "device_del", map[string]string{"id": path}, nil) // gone, or asked already
	}
}
