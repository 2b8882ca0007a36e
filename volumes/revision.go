package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// dataLink is the link that leads to a live volume's present revision; entries
// whose names begin with internalPrefix are the kubelet's own.
const (
	dataLink       = "..data"
	internalPrefix = ".."
)

// isLive says whether a directory has revisions.
func isLive(dir string) bool {
	target, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil || !isRevision(target) {
		return false
	}
	info, err := os.Stat(filepath.Join(dir, target))
	return errors.Is(err, fs.ErrNotExist) || err == nil && info.IsDir() // it may just have been overtaken
}

// isRevision says whether a name is that of a revision, a directory beside the link.
func isRevision(name string) bool {
	return len(name) > len(internalPrefix) && strings.HasPrefix(name, internalPrefix) && name != dataLink && !strings.ContainsRune(name, '/')
}

// follow keeps a live volume up to date until ctx ends.
func (v *volume) follow(ctx context.Context) {
	defer close(v.ended)
	pause := retryMin
	var retry <-chan time.Time
	for {
		var poll <-chan time.Time
		if !v.set.watch.has(v) {
			poll = time.After(pollInterval)
		}
		select {
		case <-ctx.Done():
			return
		case <-v.dirty:
		case <-poll:
		case <-retry:
		}
		before := v.revision
		began := time.Now()
		err := v.sync(ctx)
		entry := log.G(ctx).WithFields(log.Fields{"path": v.source, "revision": v.revision, "duration": time.Since(began)})
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			entry.WithError(err).Warnf("the guest keeps an old revision of a volume; next attempt in %v", pause)
			retry = time.After(pause)
			pause = min(2*pause, retryMax)
		default:
			if v.revision != before {
				entry.Info("volume updated")
			}
			retry, pause = nil, retryMin
		}
	}
}

// sync gives the guest the present revision and the links beside it, unless it
// has them.
func (v *volume) sync(ctx context.Context) error {
	return v.again(ctx, v.syncOnce)
}

func (v *volume) syncOnce(ctx context.Context) error {
	root, err := os.OpenRoot(v.source)
	if err != nil {
		return err
	}
	defer root.Close()
	now, err := root.Readlink(dataLink)
	if err != nil {
		return err
	}
	if !isRevision(now) {
		return fmt.Errorf("its link %s leads to %q, which is no revision: %w", dataLink, now, errChanged)
	}
	if now != v.revision {
		if err := v.copyRevision(ctx, root, now); err != nil {
			return err
		}
		v.revision = now
	}
	return v.copyLinks(ctx, root)
}

// copyRevision copies a revision whole and lets the guest's link lead to it. One
// that the host has left meanwhile may have been removed in part, and gets no link.
func (v *volume) copyRevision(ctx context.Context, root *os.Root, name string) error {
	t, err := scan(root, name, v.set.limits.Volume, nil)
	if err == nil {
		err = v.set.account(v, t.usage)
	}
	if err == nil && v.revision == "" {
		err = v.putRoot(ctx, root)
	}
	if err == nil {
		err = t.send(ctx, v.set.copy, root, v.guest)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if now, lerr := root.Readlink(dataLink); lerr != nil || now != name || err != nil {
		return fmt.Errorf("revision %s: %w", name, errChanged)
	}
	info, err := root.Lstat(dataLink)
	if err != nil {
		return err
	}
	o, err := describe(root, dataLink, info)
	if err != nil {
		return err
	}
	if o.Target != name {
		return fmt.Errorf("revision %s: %w", name, errChanged)
	}
	o.Path = path.Join(v.guest, dataLink)
	return v.set.copy.Put(ctx, o, nil)
}

// putRoot makes the directory of the volume itself.
func (v *volume) putRoot(ctx context.Context, root *os.Root) error {
	info, err := root.Lstat(".")
	if err != nil {
		return err
	}
	o, err := describe(root, ".", info)
	if err != nil {
		return err
	}
	o.Path = v.guest
	return v.set.copy.Put(ctx, o, nil)
}

// copyLinks gives the guest what lies beside the revisions: the links by which
// a container names its files. A link that the host no longer has stays and
// leads nowhere, unless the guest's agent removes it.
func (v *volume) copyLinks(ctx context.Context, root *os.Root) error {
	dir, err := root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return err
	}
	there := map[string]string{}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), internalPrefix) {
			continue
		}
		info, err := root.Lstat(e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // its key was removed just now
		}
		if err != nil {
			return err
		}
		o, err := describe(root, e.Name(), info)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if o.Mode&unix.S_IFMT != unix.S_IFLNK {
			return fmt.Errorf("%s lies beside the revisions and is no link to one: %w", e.Name(), errdefs.ErrNotImplemented)
		}
		there[e.Name()] = o.Target
		if v.links[e.Name()] == o.Target {
			continue
		}
		o.Path = path.Join(v.guest, e.Name())
		if err := v.set.copy.Put(ctx, o, nil); err != nil {
			return err
		}
	}
	v.links = there
	return nil
}
