package storage

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/kata-cc/kata-cc/guest/mount"
)

// mountOverlay stacks layers that are mounted. With the option overlay-rw the
// container can write, into guest memory.
func mountOverlay(_ context.Context, j *job) error {
	opts, err := mount.ParseOptions(j.st.GetOptions())
	if err != nil {
		return err
	}
	o := mount.Overlay{Layers: Layers, Target: j.st.GetMountPoint(), Extra: opts}
	o.Extra.Data = nil
	for _, d := range opts.Data {
		key, value, _ := strings.Cut(d, "=")
		switch key {
		case "lowerdir":
			o.Lower = strings.Split(value, ":")
		case "upperdir", "workdir":
			return fmt.Errorf("option %q: the agent chooses where a container writes: %w", d, errdefs.ErrInvalidArgument)
		default:
			o.Extra.Data = append(o.Extra.Data, d)
		}
	}
	for _, l := range o.Lower {
		if err := j.checkLower(l); err != nil {
			return err
		}
	}
	if j.container == "" {
		return fmt.Errorf("No container id in rw overlay: %w", errdefs.ErrInvalidArgument)
	}
	private := filepath.Join(Root, j.container)
	o.Short = filepath.Join(private, "layers")
	if slices.Contains(j.st.GetOptions(), optionOverlayRW) {
		o.Upper, o.Work = filepath.Join(private, "upper"), filepath.Join(private, "work")
		for _, dir := range []string{o.Upper, o.Work} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			j.undo.Add(func(context.Context) error { return os.RemoveAll(dir) })
		}
	}
	j.undo.Add(func(context.Context) error { return os.RemoveAll(o.Short) })
	j.undo.Add(removeDir(o.Target))
	if err := o.Mount(); err != nil {
		return err
	}
	j.undo.Add(unmounter(o.Target))
	return nil
}

// checkLower refuses a layer that is not one of the sandbox's mounts: a name in
// the directory of layers, or the path of a mount.
func (j *job) checkLower(name string) error {
	at := name
	if !filepath.IsAbs(at) {
		at = Layers + "/" + name
	}
	if filepath.Clean(at) != at || j.set.Find(at) == nil {
		return fmt.Errorf("layer %q is not mounted: %w", name, errdefs.ErrInvalidArgument)
	}
	return nil
}
