package qemu

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/qemu/qmp"
)

// watchActivation reports devices when the guest's drivers have taken them into
// use. QEMU has no event for it, so it is asked. It ends with the QMP session.
func (m *machine) watchActivation() {
	type waiting struct {
		plugged
		until time.Time
	}
	var devices []waiting
	tick := time.NewTicker(activationPoll)
	defer tick.Stop()
	for {
		due := tick.C
		if len(devices) == 0 {
			due = nil
		}
		select {
		case p := <-m.plugs:
			devices = append(devices, waiting{p, time.Now().Add(activationTimeout)})
		case now := <-due:
			devices = slices.DeleteFunc(devices, func(d waiting) bool {
				started, err := m.started(d.plugged)
				if started {
					m.events.Activated(d.id)
				}
				return started || err != nil || now.After(d.until)
			})
		case <-m.monitor.Done():
			return
		}
	}
}

// started tells whether the guest's driver uses p. A QEMU that cannot tell says
// yes; a device that is gone gives an error.
func (m *machine) started(p plugged) (bool, error) {
	var status struct {
		Started bool `json:"started"`
	}
	path := map[string]string{"path": "/machine/peripheral/" + p.name + "/virtio-backend"}
	err := m.run(context.Background(), "x-query-virtio-status", path, &status)
	var refusal *qmp.Error
	if errors.As(err, &refusal) && refusal.Class == "CommandNotFound" {
		return true, nil
	}
	return status.Started, err
}

// expectActivation has p watched.
func (m *machine) expectActivation(p plugged) {
	select {
	case m.plugs <- p:
	case <-m.monitor.Done():
	}
}
