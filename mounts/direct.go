package mounts

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

// DirectVolumesDir is where CSI drivers say which volumes go to a machine as
// they are: for each a directory named by DirectVolumeDir, with DirectVolumeFile
// in it and, for each sandbox that uses the volume, a file of its id, which holds
// the path of the volume in the guest.
const DirectVolumesDir = "/run/kata-containers/shared/direct-volumes"

// DirectVolumeFile is the name of the file that describes a volume.
const DirectVolumeFile = "mountInfo.json"

// DirectVolumeDir is the directory of the volume that is mounted from source.
func DirectVolumeDir(source string) string {
	return filepath.Join(DirectVolumesDir, base64.URLEncoding.EncodeToString([]byte(source)))
}

// DirectVolume describes a volume that goes to the machine as a device, or is
// mounted by the guest from the network.
type DirectVolume struct {
	Type     string            `json:"volume-type"` // for people
	Device   string            `json:"device"`      // block device of the host, or //server/share
	FSType   string            `json:"fstype"`
	Metadata map[string]string `json:"metadata,omitempty"`
	Options  []string          `json:"options,omitempty"`
}

// Keys of a direct volume's metadata.
const (
	metadataGroup     = "fsGroup"
	metadataPolicy    = "fsGroupChangePolicy"
	metadataSensitive = "sensitiveMountOptions"
)

// ParseDirectVolume reads a description and refuses what could not be used.
func ParseDirectVolume(data []byte) (*DirectVolume, error) {
	d := &DirectVolume{}
	if err := json.Unmarshal(data, d); err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	if d.Device == "" || d.FSType == "" {
		return nil, fmt.Errorf("no device or no fstype: %w", errdefs.ErrInvalidArgument)
	}
	if d.FSType != "cifs" && !filepath.IsAbs(d.Device) {
		return nil, fmt.Errorf("device %q is not an absolute path: %w", d.Device, errdefs.ErrInvalidArgument)
	}
	group := d.Metadata[metadataGroup]
	if group != "" {
		if _, err := strconv.ParseUint(group, 10, 32); err != nil {
			return nil, fmt.Errorf("%s %q is no group id: %w", metadataGroup, group, errdefs.ErrInvalidArgument)
		}
	}
	if p := d.Metadata[metadataPolicy]; p != "" && (group == "" || agentpb.FSGroupChangePolicy_value[p] == 0 && p != agentpb.FSGroupChangePolicy_Always.String()) {
		return nil, fmt.Errorf("%s %q is neither Always nor OnRootMismatch, or there is no %s: %w", metadataPolicy, p, metadataGroup, errdefs.ErrInvalidArgument)
	}
	return d, nil
}

// readDirectVolume finds the description of the volume mounted from source; nil:
// it is no direct-assigned one.
func readDirectVolume(source string) (*DirectVolume, error) {
	file := filepath.Join(DirectVolumeDir(source), DirectVolumeFile)
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENAMETOOLONG) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("direct-assigned volume: %w", err)
	}
	d, err := ParseDirectVolume(data)
	if err != nil {
		return nil, fmt.Errorf("direct-assigned volume %s: %w", file, err)
	}
	return d, nil
}

func (d *DirectVolume) readOnly() bool { return slices.Contains(d.Options, "ro") }

// options are the mount options, the secret ones last.
func (d *DirectVolume) options() []string {
	o := slices.Clone(d.Options)
	if s := d.Metadata[metadataSensitive]; s != "" {
		o = append(o, s)
	}
	return o
}

// group is who the volume's files are given to; nil: they stay as they are.
func (d *DirectVolume) group() *agentpb.FSGroup {
	id, err := strconv.ParseUint(d.Metadata[metadataGroup], 10, 32)
	if err != nil {
		return nil
	}
	return &agentpb.FSGroup{
		GroupId:           uint32(id),
		GroupChangePolicy: agentpb.FSGroupChangePolicy(agentpb.FSGroupChangePolicy_value[d.Metadata[metadataPolicy]]),
	}
}
