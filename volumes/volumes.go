// Package volumes gives a guest copies of files of the host and keeps those up
// to date that the kubelet does.
//
// A volume is a file or a directory. Most are copied once. One that has a link
// "..data" is live: the kubelet writes each revision of a ConfigMap, Secret,
// projected or downward volume into a new directory and then lets the link lead
// to it. The guest gets every revision the same way, whole before its link:
//
//	host   ..data ─▶ ..2026_11_24   ──rename──▶  ..data ─▶ ..2026_11_25
//	guest      copy ..2026_11_25 whole, link ..data to it, links of new keys
//
// so who opens the directory behind the link in the guest sees one revision.
// A revision that is overtaken while it is copied never gets its link.
//
// Volumes are watched by inotify on the directory itself, whatever its path. If
// the host has no watch left they are looked at every two seconds.
package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// Limits bound what is copied. Copies lie in the guest's memory.
type Limits struct {
	Volume Usage // of one volume
	Total  Usage // of all volumes of a Set
}

// DefaultLimits have room for any configuration, and for a model or a database
// of reference that a node keeps for its pods.
var DefaultLimits = Limits{
	Volume: Usage{Objects: 1 << 14, Bytes: 256 << 20},
	Total:  Usage{Objects: 1 << 16, Bytes: 1 << 30},
}

// Set is the copied volumes of one guest. It is safe for concurrent use.
type Set struct {
	copy   Copy
	limits Limits
	life   context.Context // no update after its end
	end    context.CancelFunc
	watch  watcher

	mu      sync.Mutex
	volumes map[string]*volume // by path in the guest
}

// New makes an empty set that copies by c. Updates end with life, or by Close,
// which must be called.
func New(life context.Context, c Copy, l Limits) *Set {
	s := &Set{copy: c, limits: l, volumes: map[string]*volume{}}
	s.life, s.end = context.WithCancel(life)
	return s
}

// volume is one copy in the guest.
type volume struct {
	set    *Set
	source string // on the host, links resolved as a bind mount does
	guest  string

	// Of whoever copies: Add, then the goroutine of a live volume.
	revision string            // the directory that "..data" leads to in the guest
	links    map[string]string // targets of the links beside it, by name

	usage Usage         // guarded by Set.mu
	dirty chan struct{} // has one element if there may be news
	end   context.CancelFunc
	ended chan struct{} // closed when nothing is copied for it any more
}

// Add copies the file or directory at the path host of the host to the path
// guest of the guest and returns when all of it is there. A link at host itself
// is followed, as a bind mount does; links in the volume must not lead out of
// it. A live volume is kept up to date until Remove. It fails with
// ErrResourceExhausted beyond the limits and ErrNotImplemented for what is
// neither file, directory nor link. What was sent before an error stays in the
// guest.
func (s *Set) Add(ctx context.Context, host, guest string) (Usage, error) {
	began := time.Now()
	u, live, err := s.add(ctx, host, guest)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
		}
		return Usage{}, fmt.Errorf("copy %s into the guest: %w", host, err)
	}
	log.G(ctx).WithFields(log.Fields{
		"path": host, "files": u.Objects, "bytes": u.Bytes, "live": live, "duration": time.Since(began),
	}).Debug("volume copied")
	return u, nil
}

func (s *Set) add(ctx context.Context, host, guest string) (u Usage, live bool, err error) {
	source, err := filepath.EvalSymlinks(host)
	if err != nil {
		return u, false, err
	}
	v := &volume{set: s, source: source, guest: guest, links: map[string]string{}, dirty: make(chan struct{}, 1), ended: make(chan struct{})}
	if err = s.enter(v); err != nil {
		return u, false, err
	}
	life, end := context.WithCancel(s.life)
	v.end = end
	defer func() {
		if err != nil || !live {
			end()
			close(v.ended)
		}
		if err != nil {
			s.watch.drop(v)
			s.mu.Lock()
			delete(s.volumes, guest)
			s.mu.Unlock()
		}
	}()
	stop := context.AfterFunc(ctx, end) // until Add has ended
	defer stop()

	info, err := os.Stat(source)
	if err != nil {
		return u, false, err
	}
	switch {
	case !info.IsDir():
		err = v.again(life, v.copyFile)
	case isLive(source):
		live = true
		s.watch.add(s.life, v) // before the first look, so that nothing is missed
		err = v.sync(life)
	default:
		err = v.again(life, v.copyTree)
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return u, live, err
	}
	if live {
		if !stop() {
			return u, live, context.Cause(ctx)
		}
		go v.follow(life)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return v.usage, live, nil
}

// enter takes the path of a volume.
func (s *Set) enter(v *volume) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.life.Err() != nil {
		return fmt.Errorf("the guest takes no more volumes: %w", errdefs.ErrUnavailable)
	}
	if s.volumes[v.guest] != nil {
		return fmt.Errorf("there is a volume at %s: %w", v.guest, errdefs.ErrAlreadyExists)
	}
	s.volumes[v.guest] = v
	return nil
}

// account makes u what v takes, unless that is too much for the set.
func (s *Set) account(v *volume, u Usage) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	total := u
	for _, other := range s.volumes {
		if other != v {
			total = total.Plus(other.usage)
		}
	}
	if !total.within(s.limits.Total) {
		return fmt.Errorf("with it the guest would have more than %d bytes or %d files of copies: %w",
			s.limits.Total.Bytes, s.limits.Total.Objects, errdefs.ErrResourceExhausted)
	}
	v.usage = u
	return nil
}

// Remove ends the updates of a volume and returns when nothing is copied for it
// any more. No such volume is success.
func (s *Set) Remove(guest string) {
	s.mu.Lock()
	v := s.volumes[guest]
	delete(s.volumes, guest)
	s.mu.Unlock()
	if v == nil {
		return
	}
	s.watch.drop(v)
	v.end()
	<-v.ended
}

// Usage is what all volumes take.
func (s *Set) Usage() Usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	var u Usage
	for _, v := range s.volumes {
		u = u.Plus(v.usage)
	}
	return u
}

// Close ends all updates. Nothing can be added afterwards. It may be called again.
func (s *Set) Close() error {
	s.mu.Lock()
	s.end()
	all := s.volumes
	s.volumes = map[string]*volume{}
	s.mu.Unlock()
	for _, v := range all {
		<-v.ended
	}
	return s.watch.close()
}

// maxAttempts is how often a volume that changes meanwhile is copied anew before
// the copy fails.
const maxAttempts = 20

// again repeats a copy of what changed while it was copied.
func (v *volume) again(ctx context.Context, do func(context.Context) error) error {
	for n := 1; ; n++ {
		err := do(ctx)
		if !errors.Is(err, errChanged) || n == maxAttempts {
			return err
		}
	}
}

// copyFile copies a volume that is one file.
func (v *volume) copyFile(ctx context.Context) error {
	root, err := os.OpenRoot(filepath.Dir(v.source))
	if err != nil {
		return err
	}
	defer root.Close()
	name := filepath.Base(v.source)
	info, err := root.Lstat(name)
	if err != nil {
		return err
	}
	o, err := describe(root, name, info)
	if err != nil {
		return err
	}
	if o.Mode&unix.S_IFMT != unix.S_IFREG {
		return errChanged // into a link or directory, since its links were resolved
	}
	u := Usage{1, o.Size}
	if l := v.set.limits.Volume; !u.within(l) {
		return fmt.Errorf("it has %d bytes, more than the %d that a copy may have: %w", o.Size, l.Bytes, errdefs.ErrResourceExhausted)
	}
	if err := v.set.account(v, u); err != nil {
		return err
	}
	o.Path = v.guest
	return put(ctx, v.set.copy, root, name, o)
}

// copyTree copies a directory as it is.
func (v *volume) copyTree(ctx context.Context) error {
	root, err := os.OpenRoot(v.source)
	if err != nil {
		return err
	}
	defer root.Close()
	t, err := scan(root, ".", v.set.limits.Volume, nil)
	if err == nil {
		err = v.set.account(v, t.usage)
	}
	if err == nil {
		err = t.send(ctx, v.set.copy, root, v.guest)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", errChanged, err)
	}
	return err
}
