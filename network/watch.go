package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// watchPause is how long a namespace has to be quiet before its changes are
	// looked at: a CNI plugin makes a link, gives it an address and adds routes in
	// three steps.
	watchPause = 50 * time.Millisecond
	// watchRetry is when a look that failed is repeated. What happens meanwhile
	// waits for that: a look that fails makes and takes away links itself.
	watchRetry = time.Second
)

// Watch calls look, once at first and then whenever links, addresses or routes
// of the network namespace at path have changed, until ctx ends or the namespace
// is gone from path. A look that fails is repeated. look is not called twice at a
// time.
func Watch(ctx context.Context, path string, look func() error) error {
	var socket *nl.NetlinkSocket
	err := In(path, func() (err error) {
		socket, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK,
			unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
		return err
	})
	if err != nil {
		return fmt.Errorf("watch network namespace %s: %w", path, err)
	}
	stop := context.AfterFunc(ctx, socket.Close) // wakes Receive
	defer func() {
		if stop() {
			socket.Close()
		}
	}()
	changed := make(chan struct{}, 1)
	failed := make(chan error, 1)
	go func() {
		for {
			// What it says is of no interest; that messages were lost is news too.
			if _, _, err := socket.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) {
				failed <- err
				return
			}
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	}()
	for {
		err := look()
		if errors.Is(err, errNoNamespace) || errors.Is(err, os.ErrClosed) {
			return nil
		}
		wake, again := changed, (<-chan time.Time)(nil)
		if err != nil {
			wake, again = nil, time.After(watchRetry)
		}
		select {
		case <-wake:
		case <-again:
		case err := <-failed:
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("watch network namespace %s: %w", path, err)
		}
		quiet(ctx, changed)
	}
}

// quiet returns when nothing has changed for watchPause, or after twenty of them.
func quiet(ctx context.Context, changed <-chan struct{}) {
	limit := time.After(20 * watchPause)
	for {
		select {
		case <-changed:
		case <-time.After(watchPause):
			return
		case <-limit:
			return
		case <-ctx.Done():
			return
		}
	}
}
