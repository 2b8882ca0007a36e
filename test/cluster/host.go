package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// makeNetwork chooses a subnet that no interface of the host has. The bridge is
// the CNI plugin's to make and, since no plugin ever removes it, ours to remove.
func (c *Cluster) makeNetwork(context.Context, Options) error {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return err
	}
	for range 100 {
		subnet := net.IPNet{IP: net.IPv4(10, 64+byte(rand.IntN(128)), byte(rand.IntN(256)), 0), Mask: net.CIDRMask(24, 32)}
		if overlaps(subnet, addrs) {
			continue
		}
		c.subnet = subnet.String()
		c.undo.Add(func(context.Context) error { return c.removeBridge() })
		return nil
	}
	return errors.New("no free subnet in 10.64.0.0/9")
}

func overlaps(subnet net.IPNet, addrs []net.Addr) bool {
	for _, a := range addrs {
		if other, ok := a.(*net.IPNet); ok && (other.Contains(subnet.IP) || subnet.Contains(other.IP)) {
			return true
		}
	}
	return false
}

func (c *Cluster) removeBridge() error {
	link, err := netlink.LinkByName(c.name)
	if _, gone := errors.AsType[netlink.LinkNotFoundError](err); gone {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", c.name, err)
	}
	return netlink.LinkDel(link)
}

// conflist is the CNI configuration: a bridge that is also the pods' gateway.
func (c *Cluster) conflist() string {
	return fmt.Sprintf(`{
  "cniVersion": "1.0.0",
  "name": %[1]q,
  "plugins": [
    {
      "type": "bridge", "bridge": %[1]q, "isGateway": true,
      "ipam": {
        "type": "host-local", "dataDir": %[2]q,
        "ranges": [[{ "subnet": %[3]q }]], "routes": [{ "dst": "0.0.0.0/0" }]
      }
    },
    { "type": "portmap", "capabilities": { "portMappings": true } }
  ]
}
`, c.name, c.dir("ipam"), c.subnet)
}

// cgroupParent is what kubelet makes for a pod and removes after it.
func (c *Cluster) cgroupParent() string { return "/" + c.name }

// cgroupRoots are the hierarchies of the host: one, or one per controller.
func cgroupRoots() ([]string, error) {
	const root = "/sys/fs/cgroup"
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil {
		return []string{root}, nil
	}
	return filepath.Glob(root + "/*")
}

// makeCgroup makes the pods' parent in every hierarchy, as kubelet would.
func (c *Cluster) makeCgroup(context.Context, Options) error {
	roots, err := cgroupRoots()
	if err != nil {
		return err
	}
	for _, root := range roots {
		dir := filepath.Join(root, c.cgroupParent())
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		c.undo.Add(func(context.Context) error { return os.Remove(dir) })
		// A cpuset without processors refuses every process.
		for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
			value, err := os.ReadFile(filepath.Join(root, name))
			if errors.Is(err, fs.ErrNotExist) || filepath.Base(root) != "cpuset" {
				continue
			}
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, name), value, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// unmountBelow unmounts what containerd left mounted, which is nothing unless it
// was killed.
func unmountBelow(dir string) error {
	points, err := mounts([]string{dir + "/"})
	if err != nil {
		return err
	}
	var errs []error
	for _, point := range slices.Backward(points) {
		if err := unix.Unmount(point, unix.MNT_DETACH); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", point, err))
		}
	}
	return errors.Join(errs...)
}
