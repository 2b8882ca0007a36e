package main

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kata-cc/kata-cc/verity"
)

const optionPrefix = "io.katacontainers.fs-opt."

// overlay is what the options of a mount ask for.
type overlay struct {
	dir    string  // absolute path of the directory of layer files
	layers []layer // top first
}

// maxSource is the longest name that the kernel takes for a mount's source.
const maxSource = 4095

// source is what stands as the source of the mount in /proc/mounts: the directory
// of layer files, and each layer with its root hash, top first. The shim reads it
// of a mount that a container is to see, and gives the guest the layers instead.
// Of a very deep stack there is nothing to read.
func (o overlay) source() string {
	var b strings.Builder
	b.WriteString("kata-overlay:" + o.dir)
	for _, l := range o.layers {
		b.WriteString(";" + l.name + "=" + l.rootHash)
	}
	if b.Len() > maxSource || strings.Contains(o.dir, ";") {
		return ""
	}
	return b.String()
}

// layer is one layer file.
type layer struct {
	name     string // 64 lower-case hex digits
	rootHash string
}

// parseOptions reads the comma-separated options of a mount that the tardev
// snapshotter describes:
//
//	io.katacontainers.fs-opt.layer-src-prefix=<dir>
//	io.katacontainers.fs-opt.layer=<base64>      for each layer, top first
//	io.katacontainers.fs-opt.overlay-rw
//	lowerdir=<name>:<name>…
//
// The base64 is of "<name>,tar,ro,…,io.katacontainers.fs-opt.root-hash=<hex>".
// Options of mount(8) have no effect: the mount is read-only, and knows neither
// devices nor set-user-id.
func parseOptions(text string) (overlay, error) {
	var o overlay
	var lower string
	for option := range strings.SplitSeq(text, ",") {
		key, value, _ := strings.Cut(option, "=")
		name, ours := strings.CutPrefix(key, optionPrefix)
		switch {
		case key == "lowerdir":
			lower = value
		case !ours:
			continue
		case name == "layer-src-prefix":
			if !filepath.IsAbs(value) || filepath.Clean(value) != value {
				return o, fmt.Errorf("directory of layers %q is no clean absolute path", value)
			}
			o.dir = value
		case name == "layer":
			l, err := parseLayer(value)
			if err != nil {
				return o, err
			}
			o.layers = append(o.layers, l)
		case name != "overlay-rw":
			return o, fmt.Errorf("unknown option %q", option)
		}
	}
	var names []string
	for _, l := range o.layers {
		names = append(names, l.name)
	}
	switch {
	case o.dir == "":
		return o, fmt.Errorf("option %slayer-src-prefix is missing", optionPrefix)
	case len(names) == 0:
		return o, fmt.Errorf("option %slayer is missing", optionPrefix)
	case !slices.Equal(strings.Split(lower, ":"), names):
		return o, fmt.Errorf("option lowerdir=%s does not name the layers %s", lower, strings.Join(names, ":"))
	}
	return o, nil
}

// parseLayer reads one layer option. A layer without a root hash is refused.
func parseLayer(encoded string) (layer, error) {
	text, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return layer{}, fmt.Errorf("layer option %q: %w", encoded, err)
	}
	fields := strings.Split(string(text), ",")
	l := layer{name: fields[0]}
	if raw, err := hex.DecodeString(l.name); err != nil || len(raw) != 32 || strings.ToLower(l.name) != l.name {
		return layer{}, fmt.Errorf("layer %q is not named by 64 lower-case hex digits", l.name)
	}
	if len(fields) < 2 || fields[1] != "tar" {
		return layer{}, fmt.Errorf("layer %s is not of type tar", l.name)
	}
	for _, field := range fields[2:] {
		if hash, ok := strings.CutPrefix(field, optionPrefix+"root-hash="); ok {
			if l.rootHash != "" {
				return layer{}, fmt.Errorf("layer %s has two root hashes", l.name)
			}
			l.rootHash = hash
		}
	}
	if l.rootHash == "" {
		return layer{}, fmt.Errorf("layer %s has no root hash", l.name)
	}
	if err := verity.CheckRootHash(l.rootHash); err != nil {
		return layer{}, fmt.Errorf("layer %s: %w", l.name, err)
	}
	return l, nil
}
