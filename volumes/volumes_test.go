package volumes_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/kata-cc/kata-cc/agentclient"
	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/guest/copyfile"
	"github.com/kata-cc/kata-cc/volumes"
)

// guest is the guest agent's own code behind a real wire, on a directory.
type guest struct {
	agentpb.AgentServiceService // of which only CopyFile is asked
	dir                         string
	files                       *copyfile.Files
	fail                        atomic.Pointer[error]
	calls                       atomic.Int64
}

func (g *guest) CopyFile(ctx context.Context, r *agentpb.CopyFileRequest) (*emptypb.Empty, error) {
	g.calls.Add(1)
	if err := g.fail.Load(); err != nil {
		return nil, *err
	}
	return &emptypb.Empty{}, g.files.Copy(ctx, r)
}

func startGuest(t testing.TB) (*guest, volumes.Copy) {
	t.Helper()
	g := &guest{dir: t.TempDir()}
	g.files = copyfile.New(g.dir)
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	agentpb.RegisterAgentServiceService(server, g)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(context.Background(), l)
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	client := agentclient.New(conn)
	t.Cleanup(func() {
		if err := errors.Join(client.Close(), server.Close()); err != nil {
			t.Error(err)
		}
	})
	return g, volumes.ByAgent(client)
}

// directory is a second way into a guest: the guest is a directory of the host.
type directory struct{}

func (directory) Put(_ context.Context, o volumes.Object, content io.Reader) error {
	switch o.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if err := os.Mkdir(o.Path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	case unix.S_IFLNK:
		temp := o.Path + ".new"
		return errors.Join(os.Symlink(o.Target, temp), os.Rename(temp, o.Path))
	default:
		data, err := io.ReadAll(io.LimitReader(content, o.Size))
		if err != nil {
			return err
		}
		temp := o.Path + ".new"
		if err := errors.Join(os.WriteFile(temp, data, 0o600), os.Rename(temp, o.Path)); err != nil {
			return err
		}
	}
	return os.Chmod(o.Path, os.FileMode(o.Mode&0o777))
}

func newSet(t testing.TB, c volumes.Copy, l volumes.Limits) *volumes.Set {
	t.Helper()
	s := volumes.New(t.Context(), c, l)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// equal fails the test unless two trees are the same.
func equal(t *testing.T, want, got string) {
	t.Helper()
	for _, d := range differences(want, got) {
		t.Error(d)
	}
}

// differences of two trees in names, types, modes, owners, targets and content.
func differences(want, got string) []string {
	var all []string
	differ := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	list := func(dir string) map[string]string {
		found := map[string]string{}
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			var st unix.Stat_t
			if err := unix.Lstat(path, &st); err != nil {
				return err
			}
			text := fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid)
			if target, err := os.Readlink(path); err == nil {
				text += " -> " + target
			}
			name, err := filepath.Rel(dir, path)
			found[name] = text
			return err
		})
		if err != nil {
			differ("%v", err)
		}
		return found
	}
	w, g := list(want), list(got)
	for name, text := range w {
		if g[name] != text {
			differ("%s: %q, want %q", name, g[name], text)
			continue
		}
		a, err1 := os.ReadFile(filepath.Join(want, name))
		b, err2 := os.ReadFile(filepath.Join(got, name))
		if !bytes.Equal(a, b) || (err1 == nil) != (err2 == nil) {
			differ("%s: %d bytes, %v; want %d bytes, %v, with equal content", name, len(b), err2, len(a), err1)
		}
	}
	if len(w) != len(g) {
		differ("%d objects, want %d", len(g), len(w))
	}
	return all
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// forEachWay runs a story on every way into a guest; dir is what the guest has.
func forEachWay(t *testing.T, story func(t *testing.T, c volumes.Copy, dir string)) {
	t.Run("agent", func(t *testing.T) {
		g, c := startGuest(t)
		story(t, c, g.dir)
	})
	t.Run("directory", func(t *testing.T) { story(t, directory{}, t.TempDir()) })
}

func TestTreeArrivesAsItIs(t *testing.T) {
	forEachWay(t, func(t *testing.T, c volumes.Copy, dir string) {
		src := t.TempDir()
		write := func(name string, size int, mode os.FileMode) {
			path := filepath.Join(src, name)
			must(t, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, bytes.Repeat([]byte(name[:1]), size), 0o600), os.Chmod(path, mode))
		}
		write("empty", 0, 0o644)
		write("small", 10, 0o400)
		write("one.json", 64<<10, 0o640)
		write("one.yaml", 64<<10+1, 0o640) // no longer small, and of the same stem
		write("large", 3<<20+17, 0o644)
		write("a/b/c/deep", 5, 0o755)
		must(t, os.Chmod(filepath.Join(src, "a/b"), 0o555), os.Mkdir(filepath.Join(src, "hollow"), 0o700),
			os.Symlink("a/b/c/deep", filepath.Join(src, "link")), os.Symlink("../small", filepath.Join(src, "a/up")), os.Symlink("nowhere", filepath.Join(src, "dangling")))
		if os.Getuid() == 0 && dirIsAgents(c) {
			must(t, os.Lchown(filepath.Join(src, "small"), 1234, 2345), os.Lchown(filepath.Join(src, "hollow"), 7, 8))
		}
		s := newSet(t, c, volumes.DefaultLimits)
		u, err := s.Add(t.Context(), src, filepath.Join(dir, "v"))
		must(t, err)
		equal(t, src, filepath.Join(dir, "v"))
		if want := (volumes.Usage{Objects: 14, Bytes: 10 + 2*(64<<10) + 1 + 3<<20 + 17 + 5}); u != want || s.Usage() != want {
			t.Errorf("usage %+v, of the set %+v; want %+v", u, s.Usage(), want)
		}
		s.Remove(filepath.Join(dir, "v"))
		if s.Usage() != (volumes.Usage{}) {
			t.Errorf("usage after the removal: %+v", s.Usage())
		}
	})
}

// dirIsAgents says whether c keeps owners.
func dirIsAgents(c volumes.Copy) bool { _, ok := c.(directory); return !ok }

func TestManyFilesAndOneLargeFile(t *testing.T) {
	g, c := startGuest(t)
	src := t.TempDir()
	for i := range 10_000 {
		dir := filepath.Join(src, fmt.Sprint(i%100))
		if i < 100 {
			must(t, os.Mkdir(dir, 0o755))
		}
		must(t, os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), fmt.Appendf(nil, "file %d\n", i), 0o644))
	}
	data := make([]byte, 100<<20)
	for i := range data {
		data[i] = byte(i * 2654435761 >> 13)
	}
	must(t, os.WriteFile(filepath.Join(src, "large"), data, 0o600))
	s := newSet(t, c, volumes.DefaultLimits)
	_, err := s.Add(t.Context(), src, filepath.Join(g.dir, "v"))
	must(t, err)
	equal(t, src, filepath.Join(g.dir, "v"))
}

func TestWhatCannotBeCopiedIsRefusedByName(t *testing.T) {
	_, c := startGuest(t)
	for name, story := range map[string]struct {
		make  func(dir string) error
		class func(error) bool
		says  string
	}{
		"fifo":          {func(dir string) error { return unix.Mkfifo(dir+"/pipe", 0o600) }, errdefs.IsNotImplemented, "pipe is a fifo"},
		"socket":        {func(dir string) error { return unix.Mknod(dir+"/sock", unix.S_IFSOCK|0o600, 0) }, errdefs.IsNotImplemented, "sock is a socket"},
		"absolute link": {func(dir string) error { return os.Symlink("/etc/passwd", dir+"/abs") }, errdefs.IsInvalidArgument, "abs leads to \"/etc/passwd\""},
		"link upwards":  {func(dir string) error { return os.Symlink("sub/../../x", dir+"/up") }, errdefs.IsInvalidArgument, "up leads to"},
		// By its text it stays; by the link on its way it does not.
		"link through a link": {func(dir string) error {
			return errors.Join(os.Mkdir(dir+"/sub", 0o755), os.Symlink("..", dir+"/sub/top"), os.Symlink("sub/top/..", dir+"/out"))
		}, errdefs.IsInvalidArgument, "out leads to"},
		"too many": {func(dir string) error {
			for i := range 10 {
				if err := os.WriteFile(fmt.Sprintf("%s/%d", dir, i), nil, 0o600); err != nil {
					return err
				}
			}
			return nil
		}, errdefs.IsResourceExhausted, "10 files"},
		"too large": {func(dir string) error { return os.WriteFile(dir+"/f", make([]byte, 101), 0o600) }, errdefs.IsResourceExhausted, "100 bytes"},
		"nothing":   {func(dir string) error { return os.Remove(dir) }, errdefs.IsNotFound, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			must(t, story.make(dir))
			s := newSet(t, c, volumes.Limits{Volume: volumes.Usage{Objects: 10, Bytes: 100}, Total: volumes.Usage{Objects: 100, Bytes: 1000}})
			_, err := s.Add(t.Context(), dir, "/unused")
			if err == nil || !story.class(err) || !strings.Contains(err.Error(), story.says) || !strings.Contains(err.Error(), dir) {
				t.Errorf("%v; want one that names %s and says %q", err, dir, story.says)
			}
			if u := s.Usage(); u != (volumes.Usage{}) {
				t.Errorf("usage %+v is kept", u)
			}
		})
	}
}

func TestTheSumOfVolumesIsBounded(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	must(t, os.WriteFile(file, make([]byte, 60), 0o600))
	dir := t.TempDir()
	s := newSet(t, directory{}, volumes.Limits{Volume: volumes.Usage{Objects: 10, Bytes: 100}, Total: volumes.Usage{Objects: 10, Bytes: 100}})
	_, err := s.Add(t.Context(), file, dir+"/a")
	must(t, err)
	if _, err := s.Add(t.Context(), file, dir+"/b"); !errdefs.IsResourceExhausted(err) {
		t.Errorf("the second volume: %v, want resource exhausted", err)
	}
	if _, err := s.Add(t.Context(), file, dir+"/a"); !errdefs.IsAlreadyExists(err) {
		t.Errorf("another volume of the same path: %v, want already exists", err)
	}
	s.Remove(dir + "/a")
	_, err = s.Add(t.Context(), file, dir+"/b")
	must(t, err)
	must(t, s.Close())
	if _, err := s.Add(t.Context(), file, dir+"/c"); !errdefs.IsUnavailable(err) {
		t.Errorf("a volume after Close: %v, want unavailable", err)
	}
}

func TestLinkAtTheSourceIsFollowed(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(dir+"/file", []byte("x"), 0o644), os.Symlink("file", dir+"/link"))
	to := t.TempDir()
	_, err := newSet(t, directory{}, volumes.DefaultLimits).Add(t.Context(), dir+"/link", to+"/f")
	must(t, err)
	if data, err := os.ReadFile(to + "/f"); string(data) != "x" || err != nil {
		t.Errorf("%q, %v", data, err)
	}
}

// growing appends to a file whenever its content is asked for.
type growing struct {
	directory
	file string
	left int
}

func (g *growing) Put(ctx context.Context, o volumes.Object, content io.Reader) error {
	err := g.directory.Put(ctx, o, content)
	if g.left--; g.left >= 0 {
		f, ferr := os.OpenFile(g.file, os.O_APPEND|os.O_WRONLY, 0)
		if ferr != nil {
			return ferr
		}
		_, ferr = f.WriteString("more")
		return errors.Join(err, ferr, f.Close())
	}
	return err
}

func TestFileThatChangesIsCopiedAnew(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hosts")
	must(t, os.WriteFile(file, []byte("x"), 0o644))
	to := filepath.Join(t.TempDir(), "hosts")
	_, err := newSet(t, &growing{file: file, left: 3}, volumes.DefaultLimits).Add(t.Context(), file, to)
	must(t, err)
	if data, err := os.ReadFile(to); string(data) != "xmoremoremore" || err != nil {
		t.Errorf("%q, %v", data, err)
	}
	if _, err := newSet(t, &growing{file: file, left: 1000}, volumes.DefaultLimits).Add(t.Context(), file, to); !errdefs.IsUnavailable(err) {
		t.Errorf("a file that never rests: %v, want unavailable", err)
	}
}

func TestGuestsErrorIsTold(t *testing.T) {
	g, c := startGuest(t)
	denied := error(errdefs.ErrPermissionDenied)
	g.fail.Store(&denied)
	src := t.TempDir()
	_, err := newSet(t, c, volumes.DefaultLimits).Add(t.Context(), src, g.dir+"/v")
	if err == nil || !strings.Contains(err.Error(), "permission denied") || !strings.Contains(err.Error(), src) {
		t.Errorf("%v", err)
	}
}
