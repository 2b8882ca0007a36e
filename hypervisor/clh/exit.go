package clh

import (
	"strings"
	"syscall"
	"time"

	"github.com/kata-cc/kata-cc/hypervisor"
)

// reasons tells people what a guest did.
var reasons = map[hypervisor.ExitKind]string{
	hypervisor.ExitGuestOff:    "guest powered off",
	hypervisor.ExitGuestReboot: "guest rebooted",
	hypervisor.ExitGuestPanic:  "guest panicked",
}

// exit says how the VMM ended, and is to be called once it has. An exit status of
// 0 alone says nothing: a thread of the VMM that panics ends it so, with the same
// events as a guest's power-off, so what it said while it ran decides between the
// two.
func (m *Machine) exit() hypervisor.Exit {
	m.process.drain()
	m.mu.Lock()
	defer m.mu.Unlock()
	e := hypervisor.Exit{At: m.process.at, Kind: m.cause, Reason: reasons[m.cause]}
	said := lastLines(m.process.stderr.String(), 1)
	switch {
	case m.cause == hypervisor.ExitGuestOff && said != "" && said != m.said:
		e.Kind, e.Reason = hypervisor.ExitVMM, withWords("VMM ended by itself ("+m.process.state+"), or its guest powered off", said)
	case m.cause == hypervisor.ExitGuestPanic || m.cause == hypervisor.ExitGuestReboot:
		// Without a device that reports it a panic is a reboot a second later, and
		// only the guest's own words tell.
		if line := panicLine(m.process.console.String()); line != "" {
			e.Kind, e.Reason = hypervisor.ExitGuestPanic, reasons[hypervisor.ExitGuestPanic]+": "+line
		}
	case m.cause != "":
	case m.process.signal == syscall.SIGSYS:
		e.Kind, e.Reason = hypervisor.ExitFilter, withWords("VMM was killed by its system call filter ("+m.process.state+")", said)
	case m.asked:
		e.Kind, e.Reason = hypervisor.ExitStopped, m.process.state
	case m.process.signal != 0:
		e.Kind, e.Reason = hypervisor.ExitKilled, withWords(m.process.state, said)
	default:
		e.Kind, e.Reason = hypervisor.ExitVMM, withWords("VMM ended by itself: "+m.process.state, said)
	}
	return e
}

func withWords(reason, said string) string {
	if said == "" {
		return reason
	}
	return reason + "; it says: " + printable(said)
}

// panicLine is the line of a console on which Linux says why it panicked, for
// people.
func panicLine(console string) string {
	const mark = "Kernel panic - not syncing"
	i := strings.LastIndex(console, mark)
	if i < 0 {
		return ""
	}
	line, _, _ := strings.Cut(console[i:], "\n")
	return printable(line)
}

// handle is called for each event, in order.
func (m *Machine) handle(e event) {
	switch e.Source + "/" + e.Event {
	case "vm/device-removed":
		m.devices.removed(e.Properties.ID)
	case "virtio-device/activated":
		m.devices.activated(e.Properties.ID)
	case "vm/rebooting":
		m.giveUp(hypervisor.ExitGuestReboot, 0)
	case "vm/booting": // up to version 38 a reboot is a second boot
		m.mu.Lock()
		m.boots++
		again := m.boots > 1
		m.mu.Unlock()
		if again {
			m.giveUp(hypervisor.ExitGuestReboot, 0)
		}
	case "vm/shutdown":
		m.giveUp(hypervisor.ExitGuestOff, offTimeout)
	case "guest/panic":
		m.giveUp(hypervisor.ExitGuestPanic, 0)
	}
}

// giveUp ends a machine in which nothing runs any more, by force if the VMM has
// not exited after grace. The first cause counts; Stop needs none.
func (m *Machine) giveUp(cause hypervisor.ExitKind, grace time.Duration) {
	m.mu.Lock()
	known := m.cause != "" || m.asked
	if !known {
		m.cause = cause
	}
	m.mu.Unlock()
	if known {
		return
	}
	m.work(func() {
		select {
		case <-m.process.exited:
		case <-time.After(grace):
			m.process.kill()
		}
	})
}
