package snapshotter

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/containerd/containerd/snapshots"
	"github.com/opencontainers/go-digest"
)

// record is a snapshot as its metadata file has it.
type record struct {
	Kind    snapshots.Kind    `json:"kind"`
	Name    string            `json:"name"`
	Parent  string            `json:"parent"` // "" for none
	Labels  map[string]string `json:"labels"`
	Created timestamp         `json:"created_at"`
	Updated timestamp         `json:"updated_at"`
}

// timestamp is a time since the epoch.
type timestamp struct {
	Seconds uint64 `json:"secs_since_epoch"`
	Nanos   uint32 `json:"nanos_since_epoch"`
}

func timestampOf(t time.Time) timestamp {
	return timestamp{Seconds: uint64(t.Unix()), Nanos: uint32(t.Nanosecond())}
}

func (t timestamp) time() time.Time { return time.Unix(int64(t.Seconds), int64(t.Nanos)).UTC() }

func (r *record) info() snapshots.Info {
	return snapshots.Info{
		Kind:    r.Kind,
		Name:    r.Name,
		Parent:  r.Parent,
		Labels:  maps.Clone(r.Labels),
		Created: r.Created.time(),
		Updated: r.Updated.time(),
	}
}

// isLayer says whether r is an image layer that is being unpacked. Both CRI and
// containerd's unpacker say so by a label; a client that unpacks by itself, such
// as ctr, says so by the form of the key alone ("extract-<time>-<random> <chain id>").
func (r *record) isLayer() bool {
	if r.Kind != snapshots.KindActive {
		return false
	}
	return r.Labels[labelLayerDigest] != "" || r.Labels[labelSnapshotRef] != "" ||
		strings.HasPrefix(lastElement(r.Name), snapshots.UnpackKeyPrefix+"-")
}

// chainID returns the chain id that an image layer has or is to have, or "": it is
// the name of a committed layer, and that of an active one in its label or after
// the blank in its key.
func (r *record) chainID() digest.Digest {
	name := lastElement(r.Name)
	for _, text := range []string{name, r.Labels[labelSnapshotRef], name[strings.LastIndexByte(name, ' ')+1:]} {
		if d := digest.Digest(text); d.Validate() == nil {
			return d
		}
	}
	return ""
}

func (r *record) encode() ([]byte, error) {
	if r.Labels == nil {
		r.Labels = map[string]string{}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(r)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// decodeRecord reads a metadata file.
func decodeRecord(b []byte) (*record, error) {
	r := new(record)
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("snapshot metadata: %w", err)
	}
	switch {
	case r.Name == "":
		return nil, errors.New("snapshot metadata without a name")
	case r.Kind == snapshots.KindUnknown:
		return nil, fmt.Errorf("snapshot metadata of %s without a known kind", r.Name)
	case r.Parent == r.Name:
		return nil, fmt.Errorf("snapshot metadata of %s: it is its own parent", r.Name)
	}
	return r, nil
}
