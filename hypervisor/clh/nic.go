package clh

import (
	"context"
	"errors"
	"fmt"

	"github.com/kata-cc/kata-cc/hypervisor"
	"github.com/kata-cc/kata-cc/hypervisor/clh/api"
)

// HotplugNIC attaches n. On error nothing stays attached: a plug whose answer was
// lost is taken back by the card's id, later if the VMM does not answer now.
func (m *Machine) HotplugNIC(ctx context.Context, n hypervisor.NIC) error {
	err := errors.Join(m.ready(), checkID(n.ID))
	if err == nil {
		_, err = m.plug(ctx, n.ID, true, func(ctx context.Context, _ uint16) (api.PciDeviceInfo, error) {
			return m.api.plugNet(ctx, m.o.HotplugTimeout, netConfig(n, m.spec.NICRate), n.Tap)
		})
	}
	if err != nil {
		return fmt.Errorf("hotplug network card %s: %w", n.ID, err)
	}
	return nil
}

// UnplugNIC detaches the card and returns when the guest has let go of it. The
// VMM closes its descriptors of the tap.
func (m *Machine) UnplugNIC(ctx context.Context, id string) error {
	if err := m.unplugDevice(ctx, id); err != nil {
		return fmt.Errorf("unplug network card %s: %w", id, err)
	}
	return nil
}
