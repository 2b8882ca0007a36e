package mounts

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"path/filepath"
	"strings"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/hypervisor"
)

// imagesDir is below which the guest stacks the layers of image volumes.
const imagesDir = "/run/kata-containers/sandbox/images/"

// imageSource begins the source of a mount that kata-overlay serves: the
// directory of layer files and, each after a semicolon, <name>=<root hash>, the
// top layer first.
const imageSource = "kata-overlay:"

// Image is the root of an image that the host has mounted from layer files, or
// something below it.
type Image struct {
	Dir    string // of the layer files
	Layers []ImageLayer
	Below  string // path in the image
}

// ImageLayer is one layer of an image.
type ImageLayer struct{ Name, RootHash string }

// parseImage reads the source of a mount; nil: it is no image. What it names is
// only ever opened as a layer file, and the guest checks it against the hash.
func parseImage(source string) *Image {
	text, ok := strings.CutPrefix(source, imageSource)
	if !ok {
		return nil
	}
	dir, list, ok := strings.Cut(text, ";")
	if !ok || !filepath.IsAbs(dir) || filepath.Clean(dir) != dir {
		return nil
	}
	image := &Image{Dir: dir}
	seen := map[string]bool{}
	for entry := range strings.SplitSeq(list, ";") {
		name, hash, _ := strings.Cut(entry, "=")
		if !isHash(name) || !isHash(hash) || seen[name] {
			return nil
		}
		seen[name] = true
		image.Layers = append(image.Layers, ImageLayer{name, hash})
	}
	return image
}

// imageLayer is a storage that waits for the position of a layer's disk.
type imageLayer struct {
	disk    hypervisor.Disk
	storage *agentpb.Storage
}

// image makes a mount of an image: each layer a disk, as for a container's root,
// then a read-only stack of them.
func (v *volumes) image(m *mountView, g *agentpb.Mount) {
	image := m.src.Image
	options := []string{optLayerRoot + image.Dir}
	var names []string
	for _, from := range image.Layers {
		l := layer{name: from.Name, dir: image.Dir, fstype: "tar", rootHash: from.RootHash,
			options: []string{"ro", optFile, optIsLayer, optRootHash + from.RootHash}}
		v.imageLayers = append(v.imageLayers, imageLayer{l.disk(), l.storage()})
		options = append(options, optLayer+base64.StdEncoding.EncodeToString([]byte(strings.Join(append([]string{l.name, l.fstype}, l.options...), ","))))
		names = append(names, l.name)
	}
	root := layersDir + names[0]
	if len(names) > 1 {
		lower := strings.Join(names, ":")
		sum := sha256.Sum256([]byte(lower))
		root = imagesDir + hex.EncodeToString(sum[:16])
		v.imageStacks = append(v.imageStacks, &agentpb.Storage{
			Driver: "overlayfs", Source: "none", Fstype: TardevType, Options: append(options, optLowerdir+lower), MountPoint: root,
		})
	}
	g.Source = filepath.Join(root, image.Below)
}

func (l layer) disk() hypervisor.Disk {
	return hypervisor.Disk{ID: l.diskID(), Path: l.path(), ReadOnly: true, Serial: l.name[:20]}
}

// storage is the layer's, without its source.
func (l layer) storage() *agentpb.Storage {
	return &agentpb.Storage{Driver: "blk", Fstype: l.fstype, Options: l.options, MountPoint: layersDir + l.name}
}
