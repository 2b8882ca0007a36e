package volumes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	// abreast is how many objects are on their way at once, none of them a file
	// larger than smallFile: those go one by one, so that the copy of a large
	// volume needs little of the host's memory.
	abreast   = 16
	smallFile = 64 << 10
)

// errChanged says that a volume changed while it was read, so that what was read
// is no state it ever had.
var errChanged = fmt.Errorf("it changed while it was copied: %w", errdefs.ErrUnavailable)

// Usage is what a copy takes: of the guest's memory, mostly.
type Usage struct {
	Objects int   // files, directories and symbolic links
	Bytes   int64 // content of the files
}

// Plus is the sum of u and v.
func (u Usage) Plus(v Usage) Usage { return Usage{u.Objects + v.Objects, u.Bytes + v.Bytes} }

// within says whether u is no more than limit.
func (u Usage) within(limit Usage) bool { return u.Objects <= limit.Objects && u.Bytes <= limit.Bytes }

// tree is what a walk has found, by what must be there before what. Paths are
// relative to the volume.
type tree struct {
	dirs         [][]Object // by depth
	small, large []Object
	links        []Object
	usage        Usage
}

// add enters an object whose type is known.
func (t *tree) add(o Object) {
	t.usage = t.usage.Plus(Usage{1, o.Size})
	switch {
	case o.Mode&unix.S_IFMT == unix.S_IFDIR:
		depth := 0
		if o.Path != "." {
			depth = strings.Count(o.Path, "/") + 1
		}
		for len(t.dirs) <= depth {
			t.dirs = append(t.dirs, nil)
		}
		t.dirs[depth] = append(t.dirs[depth], o)
	case o.Mode&unix.S_IFMT == unix.S_IFLNK:
		t.links = append(t.links, o)
	case o.Size > smallFile:
		t.large = append(t.large, o)
	default:
		t.small = append(t.small, o)
	}
}

// scan walks what lies at dir of a volume, without following links, and refuses
// by name what cannot be copied. Entries of the top directory that skip wants
// left out are left out.
func scan(root *os.Root, dir string, limit Usage, skip func(name string) bool) (*tree, error) {
	t := &tree{}
	err := fs.WalkDir(root.FS(), dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if skip != nil && name != dir && path.Dir(name) == dir && skip(d.Name()) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		o, err := describe(root, name, info)
		if err != nil {
			return err
		}
		if t.add(o); !t.usage.within(limit) {
			return fmt.Errorf("it has more than %d bytes or %d files, which a copy may have: %w", limit.Bytes, limit.Objects, errdefs.ErrResourceExhausted)
		}
		return nil
	})
	return t, err
}

// describe makes the object of what lstat says of name.
func describe(root *os.Root, name string, info fs.FileInfo) (Object, error) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return Object{}, fmt.Errorf("%s: no owner: %w", name, errdefs.ErrInternal)
	}
	o := Object{Path: name, Mode: st.Mode, UID: st.Uid, GID: st.Gid}
	switch info.Mode().Type() {
	case fs.ModeDir:
	case 0:
		o.Size = info.Size()
	case fs.ModeSymlink:
		var err error
		if o.Target, err = root.Readlink(name); err != nil {
			return Object{}, err
		}
		return o, checkLink(root, name, o.Target)
	default:
		return Object{}, fmt.Errorf("%s is a %s, which cannot be copied into the guest: %w", name, typeName(info.Mode()), errdefs.ErrNotImplemented)
	}
	return o, nil
}

func typeName(m fs.FileMode) string {
	switch m.Type() &^ fs.ModeCharDevice {
	case fs.ModeSocket:
		return "socket"
	case fs.ModeNamedPipe:
		return "fifo"
	case fs.ModeDevice:
		return "device"
	}
	return "special file"
}

// checkLink refuses a link that leads out of its volume, by its text or by
// further links on its way. It may lead nowhere.
func checkLink(root *os.Root, name, target string) error {
	if path.IsAbs(target) {
		return fmt.Errorf("symbolic link %s leads to %q, out of the volume: %w", name, target, errdefs.ErrInvalidArgument)
	}
	if to := path.Join(path.Dir(name), target); to == ".." || strings.HasPrefix(to, "../") {
		return fmt.Errorf("symbolic link %s leads to %q, out of the volume: %w", name, target, errdefs.ErrInvalidArgument)
	}
	_, err := root.Stat(name)
	if err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	return fmt.Errorf("symbolic link %s leads to %q, which is not in the volume: %w: %w", name, target, err, errdefs.ErrInvalidArgument)
}

// send puts a tree below the path guest: directories first, from the top, then
// files, then links.
func (t *tree) send(ctx context.Context, to Copy, root *os.Root, guest string) error {
	one := func(ctx context.Context, o Object) error {
		name := o.Path
		o.Path = path.Join(guest, name)
		return put(ctx, to, root, name, o)
	}
	for _, level := range t.dirs {
		if err := together(ctx, level, one); err != nil {
			return err
		}
	}
	for _, o := range t.large {
		if err := one(ctx, o); err != nil {
			return err
		}
	}
	err := together(ctx, byStem(t.small), func(ctx context.Context, group []Object) error {
		for _, o := range group {
			if err := one(ctx, o); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return together(ctx, t.links, one)
}

// byStem groups files whose paths differ in the extension only, which must not
// be sent at once: agents of the azl line write them to one temporary file.
func byStem(files []Object) [][]Object {
	at := map[string]int{}
	var groups [][]Object
	for _, o := range files {
		stem := strings.TrimSuffix(o.Path, path.Ext(o.Path))
		i, ok := at[stem]
		if !ok {
			i = len(groups)
			at[stem] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], o)
	}
	return groups
}

// together calls do for every item, several at once, and stops at the first error.
func together[T any](ctx context.Context, items []T, do func(context.Context, T) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(abreast)
	for _, item := range items {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error { return do(ctx, item) })
	}
	return g.Wait()
}

// put sends one object, a file with the content it has by the name in root.
func put(ctx context.Context, to Copy, root *os.Root, name string, o Object) error {
	if o.Mode&unix.S_IFMT != unix.S_IFREG {
		return to.Put(ctx, o, nil)
	}
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	before, err := f.Stat()
	if err != nil {
		return err
	}
	if before.Size() != o.Size || !before.Mode().IsRegular() {
		return fmt.Errorf("%s: %w", name, errChanged)
	}
	err = to.Put(ctx, o, f)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: %w", name, errChanged)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	after, err := f.Stat()
	if err != nil {
		return err
	}
	if after.Size() != o.Size || !after.ModTime().Equal(before.ModTime()) {
		return fmt.Errorf("%s: %w", name, errChanged)
	}
	return nil
}
