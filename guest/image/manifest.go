package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/kata-cc/kata-cc/guest/image/debian"
)

// Manifest tells what a guest image consists of. It has no times and no paths
// of the machine that built it: the same inputs give the same manifest.
type Manifest struct {
	Kind     string        `json:"kind"` // production or debug
	Kernel   KernelInfo    `json:"kernel"`
	Initrd   InitrdInfo    `json:"initrd"`
	Root     RootInfo      `json:"root"`
	Packages []PackageInfo `json:"packages"` // by name
	Modules  []string      `json:"modules"`  // loaded at boot, in order
	Files    []FileInfo    `json:"files"`    // of the guest, by path
}

// KernelInfo describes the files vmlinuz and vmlinux: the same kernel, as its
// package has it and expanded.
type KernelInfo struct {
	Release string    `json:"release"`
	Package string    `json:"package"`
	Vmlinuz KernelSum `json:"vmlinuz"`
	Vmlinux KernelSum `json:"vmlinux"`
}

// KernelSum is the checksum and size of a kernel file.
type KernelSum struct {
	SHA256 string `json:"sha256"`
	Size   int    `json:"size"`
}

func kernelSum(data []byte) KernelSum { return KernelSum{SHA256: sum(data), Size: len(data)} }

// InitrdInfo describes the file initrd.img.
type InitrdInfo struct {
	Compression Compression `json:"compression"`
	SHA256      string      `json:"sha256"`
	Size        int64       `json:"size"`
	Unpacked    int64       `json:"unpacked"` // bytes of the archive before compression
}

// PackageInfo names a Debian package that the image has files of.
type PackageInfo struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	SHA256  string `json:"sha256"` // of the .deb
}

// FileInfo describes one file of the guest.
type FileInfo struct {
	Path   string `json:"path"`
	Mode   string `json:"mode"` // as ls(1) prints it
	Size   int    `json:"size,omitempty"`
	SHA256 string `json:"sha256,omitempty"` // of a file's content
	Link   string `json:"link,omitempty"`   // target of a symbolic link
	Origin string `json:"origin,omitempty"` // package and version, "agent" or "opener"; empty: made by the builder
}

func (t tree) files() []FileInfo {
	var all []FileInfo
	for _, name := range slices.Sorted(maps.Keys(t)) {
		n := t[name]
		info := FileInfo{Path: name, Mode: n.Mode.String(), Origin: n.origin}
		switch n.Mode.Type() {
		case 0:
			info.Size, info.SHA256 = len(n.Data), sum(n.Data)
		case fs.ModeSymlink:
			info.Link = string(n.Data)
		}
		all = append(all, info)
	}
	return all
}

// used returns those of the packages that the tree has files of.
func (t tree) used(packages []debian.Package) []PackageInfo {
	origins := map[string]bool{}
	for _, n := range t {
		origins[n.origin] = true
	}
	var all []PackageInfo
	for _, p := range packages {
		if origins[origin(p)] {
			all = append(all, PackageInfo{Name: p.Name, Version: p.Version, SHA256: p.SHA256})
		}
	}
	return all
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

// JSON returns the manifest as it is written beside the image.
func (m *Manifest) JSON() ([]byte, error) {
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	return append(text, '\n'), nil
}
