package qemu

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver"
)

// command is a command line of QEMU's in the making, with the files that go
// along with it.
type command struct {
	args  []string
	files []*os.File // descriptor 3 and up of the process
	own   []*os.File // those among files that were made for it
}

// close gives back what was made for the command line.
func (c *command) close() {
	for _, f := range c.own {
		f.Close()
	}
	c.own = nil
}

func (c *command) add(args ...string) { c.args = append(c.args, args...) }

// addJSON adds an option whose value is a JSON object. No text of a client's can
// break out of it, as it could out of QEMU's comma-separated form.
func (c *command) addJSON(option string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode %s: %w", option, err)
	}
	c.add(option, string(text))
	return nil
}

// file passes f on and gives its descriptor in the process.
func (c *command) file(f *os.File) int {
	c.files = append(c.files, f)
	return 2 + len(c.files)
}

// channels are the ends of the sockets that join QEMU to us.
type channels struct {
	monitor *os.File // QMP
	serial  *os.File // nil: output dropped
	virtio  *os.File // the virtio console, nil: output dropped
	vsock   *os.File // the vhost-user control socket; nil: no vsock
}

// close closes QEMU's ends here; it has its own by then. It may be called more
// than once.
func (c *channels) close() {
	for _, f := range []**os.File{&c.monitor, &c.serial, &c.virtio, &c.vsock} {
		if *f != nil {
			(*f).Close()
			*f = nil
		}
	}
}

type object struct {
	Type     string `json:"qom-type"`
	ID       string `json:"id"`
	Filename string `json:"filename,omitempty"`
}

// commandLine describes m to QEMU. names gives QEMU's name of each device of m,
// images what is known of each disk's file.
// The caller closes it when QEMU has started.
func commandLine(m clhserver.Machine, accel Accel, ch channels, names *names, images []image) (_ *command, err error) {
	c := new(command)
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	c.add("-nodefaults", "-no-user-config", "-display", "none")
	c.add("-msg", "timestamp=off")
	c.add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
	c.add("-machine", "pc,memory-backend=ram,usb=off,vmport=off,smm=off,dump-guest-core=off")
	c.add(accel.arguments()...)
	c.add("-smp", fmt.Sprintf("cpus=%d,maxcpus=%d", m.VCPUs, max(m.VCPUs, m.MaxVCPUs)))
	if err := c.addMemory(m); err != nil {
		return nil, err
	}
	c.add("-kernel", m.Kernel)
	if m.Initramfs != "" {
		c.add("-initrd", m.Initramfs)
	}
	if words := guestCommandLine(m); words != "" {
		c.add("-append", words)
	}
	// As Cloud Hypervisor does: a reset boots the same machine again, power-off
	// ends the process, a panicked guest is left to itself.
	c.add("-S", "-action", "reboot=reset,shutdown=poweroff,panic=none")
	c.add("-device", "pvpanic")
	c.add("-chardev", fmt.Sprintf("socket,id=monitor,fd=%d", c.file(ch.monitor)), "-mon", "chardev=monitor,mode=control")

	if err := errors.Join(c.addBridges(m.Segments), c.addConsoles(m, ch, names)); err != nil {
		return nil, err
	}
	for i, d := range m.Disks {
		if err := c.addDisk(d, images[i], names); err != nil {
			return nil, fmt.Errorf("disk %s: %w", d.ID, err)
		}
	}
	for _, n := range m.Nets {
		var fds []string
		for _, tap := range n.Taps {
			fds = append(fds, strconv.Itoa(c.file(tap)))
		}
		host, dev, err := netArguments(n, names.add(n.ID, "net"), fds)
		if err != nil {
			return nil, fmt.Errorf("network card %s: %w", n.ID, err)
		}
		if err := c.addPair("-netdev", host, dev); err != nil {
			return nil, err
		}
	}
	if err := c.addRNG(m.RNG, names); err != nil {
		return nil, err
	}
	return c, c.addVsock(m.Vsock, ch.vsock, names)
}

func (c *command) addDisk(d clhserver.Disk, img image, names *names) error {
	name := names.add(d.ID, "disk")
	limits, node, dev, err := diskArguments(d, name, img)
	if err != nil {
		return err
	}
	if limits != nil {
		names.limit(name)
		if err := c.addJSON("-object", limits); err != nil {
			return err
		}
	}
	return c.addPair("-blockdev", node, dev)
}

func (c *command) addPair(option string, host any, dev device) error {
	if err := c.addJSON(option, host); err != nil {
		return err
	}
	return c.addJSON("-device", dev)
}

func (c *command) addChardev(id string, f *os.File) {
	if f == nil {
		c.add("-chardev", "null,id="+id)
		return
	}
	c.add("-chardev", fmt.Sprintf("socket,id=%s,fd=%d", id, c.file(f)))
}

func (c *command) addConsoles(m clhserver.Machine, ch channels, names *names) error {
	if m.Serial.Out != nil {
		c.addChardev("serial", ch.serial)
		c.add("-serial", "chardev:serial")
	}
	if m.Virtio.Out == nil {
		return nil
	}
	bus, err := pciDevice("virtio-serial-pci", names.add("__console", "console"), m.Virtio.At)
	if err != nil {
		return fmt.Errorf("console: %w", err)
	}
	bus.MaxPorts = 1
	c.addChardev("virtio", ch.virtio)
	if err := c.addJSON("-device", bus); err != nil {
		return err
	}
	return c.addJSON("-device", device{Driver: "virtconsole", ID: "hvc0", Chardev: "virtio"})
}

func (c *command) addRNG(r *clhserver.RNG, names *names) error {
	if r == nil {
		return nil
	}
	dev, err := pciDevice("virtio-rng-pci", names.add("__rng", "rng"), r.At)
	if err != nil {
		return fmt.Errorf("entropy device: %w", err)
	}
	dev.RNG = "entropy"
	return c.addPair("-object", object{Type: "rng-random", ID: "entropy", Filename: r.Source}, dev)
}

func (c *command) addVsock(v *clhserver.Vsock, control *os.File, names *names) error {
	if v == nil {
		return nil
	}
	dev, err := pciDevice("vhost-user-vsock-pci", names.add(v.ID, "vsock"), v.At)
	if err != nil {
		return fmt.Errorf("vsock device %s: %w", v.ID, err)
	}
	dev.Chardev = "vsock"
	c.addChardev("vsock", control)
	return c.addJSON("-device", dev)
}
