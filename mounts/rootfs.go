package mounts

import (
	"encoding/base64"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

// The options that the tardev snapshotter puts on a rootfs mount, and the type
// of that mount.
const (
	TardevType = "fuse3.kata-overlay"

	optPrefix    = "io.katacontainers.fs-opt."
	optLayerRoot = optPrefix + "layer-src-prefix="
	optLayer     = optPrefix + "layer="
	optRW        = optPrefix + "overlay-rw"
	optLowerdir  = "lowerdir="
	optFile      = optPrefix + "block_device=file"
	optIsLayer   = optPrefix + "is-layer"
	optRootHash  = optPrefix + "root-hash="
)

// Rootfs is one mount of a container's root file system as containerd asks for it.
type Rootfs struct {
	Type    string
	Source  string
	Options []string
}

// layer is one layer of an image: a layer file on the host, a mount in the guest.
type layer struct {
	name     string // 64 hexadecimal digits
	dir      string // of the layer file
	fstype   string
	options  []string // as they go to the agent
	rootHash string
}

func (l layer) path() string { return filepath.Join(l.dir, l.name) }

// diskID is the name of the layer's disk: short enough for every VMM.
func (l layer) diskID() string { return "layer-" + l.name[:32] }

// parseRootfs reads the layers of a rootfs mount, the top one first. What it
// does not know it refuses: an option that is passed on unread could hide a
// layer from the checks here and show it to the guest.
func parseRootfs(rootfs []Rootfs) ([]layer, error) {
	refuse := func(format string, args ...any) ([]layer, error) {
		return nil, fmt.Errorf("rootfs: "+format+": %w", append(args, errdefs.ErrInvalidArgument)...)
	}
	if len(rootfs) != 1 {
		return refuse("%d mounts, want the one of the tardev snapshotter", len(rootfs))
	}
	if t := rootfs[0].Type; t != TardevType {
		return refuse("type %q, want %q: only images of the tardev snapshotter can be run", t, TardevType)
	}
	var layers []layer
	var dir, lowerdir string
	seen := map[string]bool{}
	for _, o := range rootfs[0].Options {
		switch {
		case strings.HasPrefix(o, optLayerRoot):
			dir = strings.TrimPrefix(o, optLayerRoot)
			if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir {
				return refuse("directory of layers %q is not a clean absolute path", dir)
			}
		case strings.HasPrefix(o, optLayer):
			l, err := parseLayer(strings.TrimPrefix(o, optLayer))
			if err != nil {
				return nil, fmt.Errorf("rootfs: %w", err)
			}
			if dir == "" {
				return refuse("layer %s comes before the directory of layers", l.name)
			}
			if seen[l.name] {
				return refuse("layer %s occurs twice", l.name)
			}
			seen[l.name], l.dir = true, dir
			layers = append(layers, l)
		case strings.HasPrefix(o, optLowerdir):
			if lowerdir != "" {
				return refuse("two options lowerdir")
			}
			lowerdir = strings.TrimPrefix(o, optLowerdir)
		case o == optRW:
		default:
			return refuse("unknown option %q", o)
		}
	}
	names := make([]string, len(layers))
	for i, l := range layers {
		names[i] = l.name
	}
	if len(layers) == 0 {
		return refuse("no layers")
	}
	if want := strings.Join(names, ":"); lowerdir != want {
		return refuse("lowerdir=%s does not list the layers %s", lowerdir, want)
	}
	return layers, nil
}

// parseLayer reads the value of a layer option: standard base64 of
// "<name>,tar,ro,<block device>,<is layer>,<root hash>".
func parseLayer(value string) (layer, error) {
	refuse := func(format string, args ...any) (layer, error) {
		return layer{}, fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
	}
	text, err := base64.StdEncoding.Strict().DecodeString(value)
	if err != nil {
		return refuse("layer option is not base64: %v", err)
	}
	fields := strings.Split(string(text), ",")
	name := fields[0]
	if !isHash(name) {
		return refuse("layer name %q is not 64 lower-case hexadecimal digits", name)
	}
	if len(fields) < 2 || fields[1] != "tar" {
		return refuse("layer %s: not of type tar", name)
	}
	options := fields[2:]
	var hash string
	for _, o := range options {
		if strings.HasPrefix(o, optRootHash) {
			hash = strings.TrimPrefix(o, optRootHash)
		}
	}
	if hash == "" {
		return refuse("layer %s has no root hash, so the guest could not tell whether it was changed", name)
	}
	if !isHash(hash) {
		return refuse("layer %s: root hash %q is not 64 lower-case hexadecimal digits", name, hash)
	}
	want := []string{"ro", optFile, optIsLayer, optRootHash + hash}
	if strings.Join(options, ",") != strings.Join(want, ",") {
		return refuse("layer %s: options %q, want %q", name, options, want)
	}
	return layer{name: name, fstype: "tar", options: want, rootHash: hash}, nil
}

func isHash(s string) bool {
	if len(s) != 64 {
		return false
	}
	for _, c := range s {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
