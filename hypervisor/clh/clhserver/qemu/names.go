package qemu

import (
	"strconv"
	"sync"
)

// names translates between the API's device ids and QEMU's. QEMU takes only
// letters, digits and "-._" and no leading "_", so it gets names of our own: the
// kind and a number that is not used again.
type names struct {
	mu     sync.Mutex
	last   int
	plug   map[string]*plugged // by the API's id
	byName map[string]*plugged
}

// plugged is a device that QEMU has.
type plugged struct {
	id    string // the API's
	name  string // QEMU's, of the device and of its host side
	kind  string // "disk", "net", "vsock", "memory"
	asked bool   // the guest was asked to let go of it

	limited bool // its host side has limits of its own
}

func newNames() *names {
	return &names{plug: make(map[string]*plugged), byName: make(map[string]*plugged)}
}

// add gives the device id a name in QEMU.
func (n *names) add(id, kind string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := &plugged{id: id, name: kind + strconv.Itoa(n.last), kind: kind}
	n.last++
	n.plug[id] = p
	n.byName[p.name] = p
	return p.name
}

func (n *names) remove(p plugged) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.plug[p.id] != nil && n.plug[p.id].name == p.name {
		delete(n.plug, p.id)
	}
	delete(n.byName, p.name)
}

// limit notes that there are limits for the device that QEMU knows by name.
func (n *names) limit(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.byName[name].limited = true
}

// ask notes that the guest was asked to let go of p.
func (n *names) ask(p plugged) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if known := n.byName[p.name]; known != nil {
		known.asked = true
	}
}

// byID finds a device by the API's id.
func (n *names) byID(id string) (plugged, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if p := n.plug[id]; p != nil {
		return *p, true
	}
	return plugged{}, false
}

// inQEMU finds a device by QEMU's name.
func (n *names) inQEMU(name string) (plugged, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if p := n.byName[name]; p != nil {
		return *p, true
	}
	return plugged{}, false
}

// all lists the devices.
func (n *names) all() []plugged {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := make([]plugged, 0, len(n.byName))
	for _, p := range n.byName {
		list = append(list, *p)
	}
	return list
}
