package snapshotter

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/containerd/containerd/content/local"
)

// crashEnv says that this process is to live a life and to kill itself before a
// step of the disk: number, root, directory of the content store.
const crashEnv = "TARDEV_SNAPSHOTTER_CRASH"

func TestMain(m *testing.M) {
	if v := os.Getenv(crashEnv); v != "" {
		if err := liveAndDie(v); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func liveAndDie(v string) error {
	parts := strings.SplitN(v, ":", 3)
	last, err := strconv.Atoi(parts[0])
	if err != nil {
		return err
	}
	cs, err := local.NewStore(parts[2])
	if err != nil {
		return err
	}
	l := new(life)
	data, err := os.ReadFile(filepath.Join(parts[2], "life.json"))
	if err != nil {
		return err
	}
	if err = json.Unmarshal(data, &[]any{&l.layers, &l.chains}); err != nil {
		return err
	}
	step := 0
	on := &steps{hostDisk{}, func(string, string) error {
		if step++; step == last {
			return syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
		return nil
	}}
	s, err := newOn(context.Background(), on, parts[1], &contentStore{Store: cs})
	if err != nil {
		return err
	}
	return errors.Join(l.run(context.Background(), s, func(what string) { fmt.Println(what) }), s.Close())
}

// TestKilledAtEveryStep: the process is killed before each change it makes on
// disk, in turn. The store opens, has every layer whose Commit was answered,
// nothing that no snapshot accounts for, and everything can be done again.
func TestKilledAtEveryStep(t *testing.T) {
	c := newContent(t)
	l := newLife(t, c)
	if err := os.WriteFile(filepath.Join(c.dir, "life.json"), encode(t, []any{l.layers, l.chains}), 0o600); err != nil {
		t.Fatal(err)
	}
	// Some side by side. No store is opened meanwhile: a process that is just being
	// started shares the lock of one for a moment.
	const chunk = 8
	for from := 1; ; from += chunk {
		deaths := make([]death, chunk)
		var wg sync.WaitGroup
		for i := range deaths {
			deaths[i].root = memoryDir(t)
			l.copyTo(t, deaths[i].root)
			wg.Go(func() { deaths[i].dieAt(t.Context(), from+i, c.dir) })
		}
		wg.Wait()
		for i, d := range deaths {
			if d.err != nil {
				t.Fatalf("step %d: %v", from+i, d.err)
			}
			t.Run(strconv.Itoa(from+i), func(t *testing.T) { l.afterCrash(t, c, d.root, d.told) })
		}
		if deaths[chunk-1].lived || t.Failed() {
			if from == 1 {
				t.Errorf("there are less than %d steps", chunk)
			}
			return
		}
	}
}

// death is a process that lives a life up to a step.
type death struct {
	root  string
	told  []string
	lived bool // to the end: there is no such step
	err   error
}

func (d *death) dieAt(ctx context.Context, step int, content string) {
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d:%s:%s", crashEnv, step, d.root, content))
	var log bytes.Buffer
	cmd.Stderr = &log
	out, err := cmd.Output()
	var exit *exec.ExitError
	switch {
	case err == nil:
		d.lived = true
	case errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL:
	default:
		d.err = fmt.Errorf("%w\n%s", err, log.Bytes())
	}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		d.told = append(d.told, lines.Text())
	}
}

func (l *life) afterCrash(t *testing.T, c Content, root string, told []string) {
	t.Helper()
	if _, err := Check(t.Context(), root, false, func(p Problem) { t.Errorf("fsck: %+v", p) }); err != nil {
		t.Error(err)
	}
	s := newSnapshotter(t, root, c)
	l.check(t, s, told)
	l.goOn(t, s)
	if t.Failed() {
		t.Logf("told %q", told)
	}
}

// TestPowerCutAtEveryStep: what was not synced is lost; of names and contents, or
// of contents only, as file systems do it.
func TestPowerCutAtEveryStep(t *testing.T) {
	c := newContent(t)
	l := newLife(t, c)
	for _, names := range []bool{false, true} {
		t.Run(fmt.Sprintf("unsynced names stay %v", names), func(t *testing.T) {
			for step := 1; ; step++ {
				ended := true
				t.Run(strconv.Itoa(step), func(t *testing.T) { ended = l.cutAt(t, c, step, names) })
				if ended || t.Failed() {
					return
				}
			}
		})
	}
}

func (l *life) cutAt(t *testing.T, c Content, step int, names bool) (ended bool) {
	root := memoryDir(t)
	l.copyTo(t, root)
	v := &volatile{disk: hostDisk{}, old: memoryDir(t), pending: map[string][]func() error{}}
	n := 0
	on := &steps{v, func(string, string) error {
		if n++; n >= step {
			return errStep
		}
		return nil
	}}
	s, err := newOn(t.Context(), on, root, c)
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	err = l.run(t.Context(), s, func(what string) { told = append(told, what) })
	if err != nil && !errors.Is(err, errStep) {
		t.Fatal(err)
	}
	if cerr := s.Close(); cerr != nil {
		t.Fatal(cerr)
	}
	if err := v.cut(names); err != nil {
		t.Fatal(err)
	}
	l.afterCrash(t, c, root, told)
	return n < step
}

// volatile is a disk that can lose what was not synced.
type volatile struct {
	disk
	old     string // directory of what was replaced or removed
	saved   int
	pending map[string][]func() error // by directory: how to take back its changes
	files   []*volatileFile
}

type volatileFile struct {
	diskFile
	synced bool
	path   string
}

func (f *volatileFile) Sync() error {
	f.synced = true
	return f.diskFile.Sync()
}

// cut loses what was not synced: contents, and the changes of directories unless
// names stay.
func (v *volatile) cut(names bool) error {
	for _, f := range v.files {
		if _, err := os.Stat(f.path); err == nil && !f.synced {
			if err := os.Truncate(f.path, 0); err != nil {
				return err
			}
		}
	}
	if names {
		return nil
	}
	for _, undo := range v.pending {
		for i := len(undo) - 1; i >= 0; i-- {
			if err := undo[i](); err != nil {
				return err
			}
		}
	}
	return nil
}

func (v *volatile) change(path string, undo func() error) {
	dir := filepath.Dir(path)
	v.pending[dir] = append(v.pending[dir], undo)
}

// save keeps what has a name, so that it can get it back.
func (v *volatile) save(path string) (restore func() error, err error) {
	if _, err := os.Stat(path); err != nil {
		return func() error { return os.RemoveAll(path) }, nil
	}
	v.saved++
	old := filepath.Join(v.old, strconv.Itoa(v.saved))
	return func() error {
		return errors.Join(os.RemoveAll(path), os.Link(old, path))
	}, os.Link(path, old)
}

func (v *volatile) Create(path string) (diskFile, error) {
	f, err := v.disk.Create(path)
	if err != nil {
		return nil, err
	}
	vf := &volatileFile{f, false, path}
	v.files = append(v.files, vf)
	v.change(path, func() error { return os.RemoveAll(path) })
	return vf, nil
}

func (v *volatile) Mkdir(path string, perm os.FileMode) error {
	v.change(path, func() error { return os.RemoveAll(path) })
	return v.disk.Mkdir(path, perm)
}

func (v *volatile) Rename(from, to string) error {
	restore, err := v.save(to)
	if err != nil {
		return err
	}
	v.change(to, restore)
	for _, f := range v.files {
		if f.path == from {
			f.path = to
		}
	}
	return v.disk.Rename(from, to)
}

func (v *volatile) Remove(path string) error {
	restore, err := v.save(path)
	if err != nil {
		return err
	}
	v.change(path, restore)
	return v.disk.Remove(path)
}

func (v *volatile) RemoveAll(path string) error {
	if st, err := os.Stat(path); err == nil && st.IsDir() { // of scratch directories; they are empty here
		v.change(path, func() error { return os.MkdirAll(path, 0o755) })
	}
	return v.disk.RemoveAll(path)
}

func (v *volatile) SyncDir(path string) error {
	delete(v.pending, path)
	return v.disk.SyncDir(path)
}
