// Package snapshotter is a containerd snapshotter whose committed snapshots are
// layer files: each is one read-only disk for a virtual machine, its content under
// a dm-verity root hash that stands in the snapshot's labels. Nothing is mounted
// on the host; a container's mounts name its layers for the runtime.
//
// An image layer is prepared, committed and lives until it is removed:
//
//	Prepare   an empty scratch directory, to be unpacked into
//	Apply     the layer's blob is read from containerd's content store and becomes
//	          a layer file; nothing is unpacked
//	Commit    the layer file becomes the snapshot's; the scratch directory goes.
//	          Without Apply it is made now, whatever was unpacked
//	Remove    the layer file goes with the last snapshot that has it
//
// A container's snapshot, from Prepare or View, holds its parents and no data.
//
// On disk, below the root, each file being whole and synced before it has its name:
//
//	snapshots/<name>   metadata of a snapshot, JSON
//	layers/<name>      layer file of a committed snapshot
//	staging/           scratch directories and layer files in the making
//
// <name> is [LayerName] of the snapshot's key. Namespaces of containerd can have
// the same layer: they share the file, and the metadata of the second gets a name
// of its own.
package snapshotter

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// LabelRootHash is the label of a committed snapshot that holds the root hash of
// its layer file in lower-case hex. Update does not change it.
const LabelRootHash = "io.katacontainers.dm-verity.root-hash"

// Labels that CRI and containerd's unpacker set.
const (
	labelLayerDigest = "containerd.io/snapshot/cri.layer-digest"
	labelImageRef    = "containerd.io/snapshot/cri.image-ref"
	labelSnapshotRef = "containerd.io/snapshot.ref"
)

// LayerName returns the name of a snapshot's layer file: the lower-case hex
// SHA-256 of the last element of its key, which for an image layer is its chain id.
func LayerName(key string) string {
	sum := sha256.Sum256([]byte(lastElement(key)))
	return hex.EncodeToString(sum[:])
}

func lastElement(key string) string {
	return key[strings.LastIndexByte(key, '/')+1:]
}
