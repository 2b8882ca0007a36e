package volumes

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// watcher tells volumes that there may be news. It begins with the first live
// volume: most hosts allow few inotify instances.
type watcher struct {
	mu      sync.Mutex
	file    *os.File // nil: not begun
	closed  bool
	users   map[int32]map[*volume]bool // by watch; volumes of one directory share it
	watches map[*volume]int32
	done    chan struct{} // closed when the events are no longer read
}

// interesting is what happens in a directory when the kubelet updates it.
const interesting = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE | unix.IN_ONLYDIR

// add watches a volume, or says in the log why it has to be polled. ctx is the
// life of the set.
func (w *watcher) add(ctx context.Context, v *volume) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.addLocked(ctx, v); err != nil {
		log.G(ctx).WithError(err).WithField("path", v.source).Warnf("volume cannot be watched; it is looked at every %v instead", pollInterval)
	}
}

func (w *watcher) addLocked(ctx context.Context, v *volume) error {
	if w.closed {
		return nil
	}
	if w.file == nil {
		fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
		if err != nil {
			return exhausted("inotify_init1", err, "fs.inotify.max_user_instances")
		}
		w.file = os.NewFile(uintptr(fd), "inotify")
		w.users, w.watches, w.done = map[int32]map[*volume]bool{}, map[*volume]int32{}, make(chan struct{})
		go w.read(ctx, w.file)
	}
	var wd int
	var err error
	if cerr := w.control(func(fd int) { wd, err = unix.InotifyAddWatch(fd, v.source, interesting) }); cerr != nil {
		return cerr
	}
	if err != nil {
		return exhausted("inotify_add_watch", err, "fs.inotify.max_user_watches")
	}
	if w.users[int32(wd)] == nil {
		w.users[int32(wd)] = map[*volume]bool{}
	}
	w.users[int32(wd)][v] = true
	w.watches[v] = int32(wd)
	return nil
}

// exhausted says what an operator can do where the host has no watch left.
func exhausted(call string, err error, limit string) error {
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("%s: the host has none left, see sysctl %s: %w", call, limit, err)
	}
	return os.NewSyscallError(call, err)
}

// control calls do with the descriptor.
func (w *watcher) control(do func(fd int)) error {
	c, err := w.file.SyscallConn()
	if err != nil {
		return err
	}
	return c.Control(func(fd uintptr) { do(int(fd)) })
}

// has says whether a volume is watched.
func (w *watcher) has(v *volume) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.watches[v]
	return ok
}

// drop ends the watch of a volume, if it has one.
func (w *watcher) drop(v *volume) {
	w.mu.Lock()
	defer w.mu.Unlock()
	wd, ok := w.watches[v]
	if !ok {
		return
	}
	delete(w.watches, v)
	delete(w.users[wd], v)
	if len(w.users[wd]) == 0 {
		delete(w.users, wd)
		// An error says that the directory is gone, and the watch with it.
		_ = w.control(func(fd int) { _, _ = unix.InotifyRmWatch(fd, uint32(wd)) })
	}
}

// close ends all watches.
func (w *watcher) close() error {
	w.mu.Lock()
	w.closed = true
	file, done := w.file, w.done
	w.file = nil
	w.users, w.watches = nil, nil
	w.mu.Unlock()
	if file == nil {
		return nil
	}
	err := file.Close() // wakes the reader
	<-done
	return err
}

// event is struct inotify_event; a name of Len bytes follows.
type event struct {
	Watch        int32
	Mask, Cookie uint32
	Len          uint32
}

// read tells volumes of events until the file is closed.
func (w *watcher) read(ctx context.Context, file *os.File) {
	defer close(w.done)
	buf := make([]byte, 16<<10)
	for {
		n, err := file.Read(buf)
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				log.G(ctx).WithError(err).Warn("volumes are no longer watched; they are looked at instead")
				w.lose()
			}
			return
		}
		for r := bytes.NewReader(buf[:n]); ; {
			var e event
			if binary.Read(r, binary.NativeEndian, &e) != nil {
				break
			}
			if _, err := r.Seek(int64(e.Len), 1); err != nil {
				break
			}
			w.tell(ctx, e)
		}
	}
}

// lose lets every volume be polled from now on.
func (w *watcher) lose() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for v := range w.watches {
		v.mark() // so that it finds out
	}
	clear(w.watches)
	clear(w.users)
}

// tell marks the volumes that an event is about. Events that were lost are about
// every volume.
func (w *watcher) tell(ctx context.Context, e event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e.Mask&unix.IN_Q_OVERFLOW != 0 {
		log.G(ctx).Warn("inotify lost events; every volume is looked at")
		for v := range w.watches {
			v.mark()
		}
		return
	}
	for v := range w.users[e.Watch] {
		v.mark()
		if e.Mask&unix.IN_IGNORED != 0 { // the directory is gone
			delete(w.watches, v)
		}
	}
	if e.Mask&unix.IN_IGNORED != 0 {
		delete(w.users, e.Watch)
	}
}

// mark says that there may be news of v.
func (v *volume) mark() {
	select {
	case v.dirty <- struct{}{}:
	default: // said already
	}
}
