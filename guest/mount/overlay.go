package mount

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// Overlay is a stack of layers.
type Overlay struct {
	Layers string   // directory which relative names in Lower start from
	Lower  []string // top layer first
	Upper  string   // empty for a read-only stack
	Work   string
	Short  string // directory for short names, made only if the names are too long for the kernel
	Target string
	Extra  Options
}

// Mount stacks the layers. /proc/mounts shows them by the names in Lower, unless
// these do not fit into one page.
func (o Overlay) Mount() error {
	if len(o.Lower) == 0 {
		return fmt.Errorf("stack layers at %s: there is none: %w", o.Target, errdefs.ErrInvalidArgument)
	}
	for _, l := range o.Lower {
		if l == "" || strings.ContainsAny(l, ",\\") {
			return fmt.Errorf("stack layers at %s: %q cannot be the name of a layer: %w", o.Target, l, errdefs.ErrInvalidArgument)
		}
	}
	m := Mount{Source: "none", Target: o.Target, FSType: "overlay", Dir: o.Layers, Options: o.options(o.Lower)}
	if len(strings.Join(m.Options.Data, ",")) > maxData {
		short, err := o.shorten()
		if err != nil {
			return err
		}
		m.Dir, m.Options = o.Short, o.options(short)
	}
	return m.Do()
}

func (o Overlay) options(lower []string) Options {
	opts := Options{Flags: o.Extra.Flags}
	opts.Data = append(opts.Data, "lowerdir="+strings.Join(lower, ":"))
	if o.Upper != "" {
		opts.Data = append(opts.Data, "upperdir="+o.Upper, "workdir="+o.Work)
	}
	opts.Data = append(opts.Data, o.Extra.Data...)
	return opts
}

// shorten links a short name to each layer.
func (o Overlay) shorten() ([]string, error) {
	if err := os.MkdirAll(o.Short, 0o700); err != nil {
		return nil, fmt.Errorf("make short names of layers: %w", err)
	}
	names := make([]string, len(o.Lower))
	for i, l := range o.Lower {
		if !filepath.IsAbs(l) {
			l = filepath.Join(o.Layers, l)
		}
		names[i] = strconv.FormatInt(int64(i), 36)
		link := filepath.Join(o.Short, names[i])
		if err := os.Symlink(l, link); err != nil && !os.IsExist(err) {
			return nil, fmt.Errorf("make a short name of a layer: %w", err)
		}
	}
	return names, nil
}
