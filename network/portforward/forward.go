// Package portforward lets those who enter a pod's network namespace and dial
// its localhost, as containerd does for `kubectl port-forward`, reach the guest.
//
// In the namespace nothing listens: the pod's processes are in the guest, and
// what is dialled at localhost never leaves through a link that leads there. So
// every TCP connection to the namespace itself is handed to one listener here,
// whatever its port, and carried on to the same port of the pod's address from
// the caller's namespace, as any other traffic from the node to the pod is. A
// program in the guest that listens on the guest's own localhost alone is not
// reached: the host is not to be closer to it than the network is.
package portforward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/containerd/log"

	"github.com/kata-cc/kata-cc/network"
)

const (
	// dialTimeout bounds the way to the pod's address.
	dialTimeout = 10 * time.Second
	// acceptPause is how long to wait after an accept that failed, for want of
	// descriptors as a rule.
	acceptPause = 100 * time.Millisecond
)

// errNoAddress says that a pod has none at the moment.
var errNoAddress = errors.New("the pod has no address")

// Forwarder carries connections to a namespace's localhost to a pod's address.
type Forwarder struct {
	listener net.Listener
	steering io.Closer
	life     context.Context // ends with Close
	end      context.CancelFunc
	tasks    sync.WaitGroup

	mu      sync.Mutex
	targets []netip.Addr
}

// Start makes the localhost of the network namespace at path lead to targets, of
// which the first that answers is taken. It needs a kernel that can steer
// sockets (5.9) and CAP_BPF or CAP_SYS_ADMIN. Everything ends with Close, and
// with the process at the latest.
func Start(path string, targets []netip.Addr) (*Forwarder, error) {
	f := &Forwarder{targets: slices.Clone(targets)}
	err := network.In(path, func() (err error) {
		var config net.ListenConfig
		config.SetMultipathTCP(false) // no map of sockets takes a multipath one
		// Both families, if the kernel has them.
		if f.listener, err = config.Listen(context.Background(), "tcp", ":0"); err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("forward ports of network namespace %s: %w", path, err)
	}
	if f.steering, err = steer(path, f.listener); err != nil {
		return nil, errors.Join(fmt.Errorf("forward ports of network namespace %s: %w", path, err), f.listener.Close())
	}
	f.life, f.end = context.WithCancel(context.Background())
	f.tasks.Go(f.serve)
	return f, nil
}

// SetTargets makes new connections lead to other addresses. Those that were made
// stay as they are.
func (f *Forwarder) SetTargets(targets []netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.targets = slices.Clone(targets)
}

// Close ends all connections and returns when they have ended.
func (f *Forwarder) Close() error {
	f.end()
	err := f.steering.Close()
	if closed := f.listener.Close(); !errors.Is(closed, net.ErrClosed) { // the second time it is
		err = errors.Join(err, closed)
	}
	f.tasks.Wait()
	return err
}

func (f *Forwarder) serve() {
	for {
		conn, err := f.listener.Accept()
		switch {
		case err == nil:
			f.tasks.Go(func() { f.carry(conn.(*net.TCPConn)) })
		case errors.Is(err, net.ErrClosed):
			return
		default:
			select {
			case <-f.life.Done():
				return
			case <-time.After(acceptPause):
			}
		}
	}
}

// carry joins a connection to the pod's port of the same number.
func (f *Forwarder) carry(near *net.TCPConn) {
	port := near.LocalAddr().(*net.TCPAddr).AddrPort().Port()
	far, err := f.dial(port)
	if err != nil {
		log.G(f.life).WithError(err).Infof("port %d of the pod cannot be reached", port)
		_ = near.SetLinger(0) // a reset: as near to "connection refused" as an accepted one can come
		_ = near.Close()
		return
	}
	stop := context.AfterFunc(f.life, func() {
		_ = near.Close()
		_ = far.Close()
	})
	defer stop()
	var ways sync.WaitGroup
	ways.Go(func() { pass(far, near) })
	ways.Go(func() { pass(near, far) })
	ways.Wait()
	_ = near.Close()
	_ = far.Close()
}

func (f *Forwarder) dial(port uint16) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(f.life, dialTimeout)
	defer cancel()
	f.mu.Lock()
	targets := f.targets // replaced, never changed
	f.mu.Unlock()
	var errs []error
	if len(targets) == 0 {
		return nil, errNoAddress
	}
	for _, t := range targets {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", netip.AddrPortFrom(t, port).String())
		if err == nil {
			return conn.(*net.TCPConn), nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// pass copies until from ends and tells to so. An error ends both ways.
func pass(to, from *net.TCPConn) {
	if _, err := io.Copy(to, from); err != nil {
		_ = to.SetLinger(0)
		_ = to.Close()
		_ = from.Close()
		return
	}
	_ = to.CloseWrite()
}
