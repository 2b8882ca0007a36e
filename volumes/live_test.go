package volumes_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kata-cc/kata-cc/volumes"
)

// eventually waits for what happens on its own.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func reads(path, want string) func() bool {
	return func() bool {
		data, err := os.ReadFile(path)
		return err == nil && string(data) == want
	}
}

func TestUpdatesArrive(t *testing.T) {
	forEachWay(t, func(t *testing.T, c volumes.Copy, dir string) {
		k := newKubelet(t)
		k.write(map[string]string{"key": "1", "sub/deep": "1", "gone": "1"})
		s := newSet(t, c, volumes.DefaultLimits)
		to := filepath.Join(dir, "v")
		_, err := s.Add(t.Context(), k.dir, to)
		must(t, err)
		if !reads(to+"/key", "1")() || !reads(to+"/sub/deep", "1")() || !reads(to+"/gone", "1")() {
			t.Fatal("the first revision is not there when Add returns")
		}
		k.write(map[string]string{"key": "2", "sub/deep": "2", "new/deep": "2"})
		eventually(t, "key has the second revision", reads(to+"/key", "2"))
		eventually(t, "a key in a directory has", reads(to+"/sub/deep", "2"))
		eventually(t, "a new key has its link", reads(to+"/new/deep", "2"))
		if _, err := os.ReadFile(to + "/gone"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a key that was removed: %v, want no such file", err)
		}
		if dirIsAgents(c) { // whose agent tidies up
			eventually(t, "both are the same", func() bool { return len(differences(k.dir, to)) == 0 })
		}
		s.Remove(to)
		k.write(map[string]string{"key": "3"})
		time.Sleep(100 * time.Millisecond)
		if !reads(to+"/key", "2")() {
			t.Error("a volume that was removed is kept up to date")
		}
	})
}

// A reader in the guest that opens the directory behind the link and reads two
// files sees one revision, and never an older one than before.
func TestReaderNeverSeesHalves(t *testing.T) {
	g, c := startGuest(t)
	k := newKubelet(t)
	revision := func(n int) map[string]string {
		// Long enough to be sent in two pieces, between which much can happen.
		return map[string]string{"first": fmt.Sprint(n), "second": fmt.Sprint(n), "long": strings.Repeat(fmt.Sprintln(n), 1<<20/len(fmt.Sprintln(n))+10)}
	}
	k.write(revision(0))
	s := newSet(t, c, volumes.DefaultLimits)
	to := filepath.Join(g.dir, "v")

	last := 0
	write := func() { last++; k.write(revision(last)) }
	writing, stop := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	writer.Go(func() { // from before the first copy on
		for writing.Err() == nil {
			write()
			time.Sleep(100 * time.Millisecond)
		}
	})
	// Twice the same volume, as two containers of a pod have it.
	copies := []string{to, to + "2"}
	for _, v := range copies {
		_, err := s.Add(t.Context(), k.dir, v)
		must(t, err)
	}
	stop()
	writer.Wait()

	var newest [2]atomic.Int64
	reading, enough := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	for i, v := range copies {
		readers.Go(func() {
			for reading.Err() == nil {
				n, err := readRevision(v)
				if errors.Is(err, errOvertaken) {
					continue // as on any node
				}
				if err != nil {
					t.Error(err)
					return
				}
				if before := newest[i].Swap(int64(n)); int64(n) < before {
					t.Errorf("revision %d after %d", n, before)
				}
			}
		})
	}
	for range 8 { // four in a row, then time to see the last
		for range 4 {
			write()
		}
		eventually(t, "both readers see the last revision", func() bool {
			return t.Failed() || newest[0].Load() == int64(last) && newest[1].Load() == int64(last)
		})
	}
	enough()
	readers.Wait()
	for _, v := range copies {
		eventually(t, "no revision that was overtaken is left", func() bool { return len(differences(k.dir, v)) == 0 })
	}
}

// errOvertaken says that a revision was removed while it was read, and that the
// link led away from it before.
var errOvertaken = errors.New("overtaken")

// readRevision reads the files of one revision and says which it is.
func readRevision(v string) (n int, err error) {
	target, err := os.Readlink(v + "/..data")
	if err != nil {
		return 0, err
	}
	defer func() {
		if now, lerr := os.Readlink(v + "/..data"); err != nil && lerr == nil && now != target {
			err = errOvertaken
		}
	}()
	dir, err := os.OpenRoot(filepath.Join(v, target))
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	first, err := dir.ReadFile("first")
	if err != nil {
		return 0, err
	}
	second, err := dir.ReadFile("second")
	if err != nil {
		return 0, err
	}
	long, err := dir.ReadFile("long")
	if err != nil {
		return 0, err
	}
	line := string(first) + "\n"
	if string(first) != string(second) || len(long) < 1<<20 || !strings.HasPrefix(string(long), line) || !strings.HasSuffix(string(long), line) {
		return 0, fmt.Errorf("halves of revisions %q, %q and %.10q of %d bytes", first, second, long, len(long))
	}
	return strconv.Atoi(string(first))
}

func TestUpdateThatFailsIsTriedAgain(t *testing.T) {
	g, c := startGuest(t)
	k := newKubelet(t)
	k.write(map[string]string{"key": "1"})
	s := newSet(t, c, volumes.DefaultLimits)
	to := filepath.Join(g.dir, "v")
	_, err := s.Add(t.Context(), k.dir, to)
	must(t, err)
	full := errors.New("disk full")
	g.fail.Store(&full)
	calls := g.calls.Load()
	k.write(map[string]string{"key": "2"})
	eventually(t, "the update is tried", func() bool { return g.calls.Load() > calls })
	if !reads(to+"/key", "1")() {
		t.Error("after a failed update the old revision is not there")
	}
	g.fail.Store(nil)
	eventually(t, "the update is tried again", reads(to+"/key", "2"))
}

// A file that a subPath binds is copied once, as Kubernetes has it.
func TestFileOfALiveVolumeIsCopiedOnce(t *testing.T) {
	g, c := startGuest(t)
	k := newKubelet(t)
	k.write(map[string]string{"key": "1", "sub/deep": "1"})
	s := newSet(t, c, volumes.DefaultLimits)
	for _, name := range []string{"key", "sub"} {
		_, err := s.Add(t.Context(), filepath.Join(k.dir, name), filepath.Join(g.dir, name))
		must(t, err)
	}
	_, err := s.Add(t.Context(), k.dir, filepath.Join(g.dir, "live"))
	must(t, err)
	k.write(map[string]string{"key": "2", "sub/deep": "2"})
	eventually(t, "the volume itself is updated", reads(g.dir+"/live/key", "2"))
	if !reads(g.dir+"/key", "1")() || !reads(g.dir+"/sub/deep", "1")() {
		t.Error("a part of a volume was updated")
	}
}

func TestNothingRunsAfterClose(t *testing.T) {
	g, c := startGuest(t)
	k := newKubelet(t)
	k.write(map[string]string{"key": "1"})
	s := volumes.New(t.Context(), c, volumes.DefaultLimits)
	if _, err := s.Add(t.Context(), k.dir, g.dir+"/a"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Add(ctx, k.dir, g.dir+"/b"); !errors.Is(err, context.Canceled) {
		t.Errorf("Add by a caller who went away: %v", err)
	}
	must(t, s.Close(), s.Close())
	s.Remove(g.dir + "/a")
	buf := make([]byte, 1<<20)
	stacks := string(buf[:runtime.Stack(buf, true)])
	for _, name := range []string{"volumes.(*volume).follow", "volumes.(*watcher).read"} {
		if strings.Contains(stacks, name) {
			t.Errorf("%s still runs:\n%s", name, stacks)
		}
	}
}
