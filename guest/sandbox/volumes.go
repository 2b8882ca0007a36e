package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/guest/ocispec"
)

// allowBound lets a container use the block devices that are bound into it.
func allowBound(spec *specs.Spec, storages []*agentpb.Storage) error {
	for _, st := range storages {
		bound := slices.ContainsFunc(spec.Mounts, func(m specs.Mount) bool { return m.Source == st.GetMountPoint() })
		if st.GetDriver() != "blk" || st.GetFstype() != "bind" || !bound {
			continue
		}
		if err := ocispec.AllowDevice(spec, st.GetMountPoint()); err != nil {
			return err
		}
	}
	return nil
}

const (
	annotationTermination = "io.kubernetes.container.terminationMessagePath"
	usualTermination      = "/dev/termination-log"
	maxTermination        = 4096 // bytes that a kubelet reads
)

// podFiles are copied into every container and written to like a termination log.
var podFiles = []string{"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}

// TerminationLog reads the end of the file that a container leaves its last
// words in.
func (s *Sandbox) TerminationLog(id string) (string, error) {
	c, err := s.Container(id)
	if err != nil {
		return "", err
	}
	path := terminationLog(c.Spec(), id)
	if path == "" {
		return "", fmt.Errorf("container %s has no termination log: %w", id, errdefs.ErrNotFound)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", fmt.Errorf("termination log of container %s: %w", id, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("termination log of container %s is not a file: %w", id, errdefs.ErrInvalidArgument)
	}
	buf := make([]byte, maxTermination)
	n, err := f.ReadAt(buf, max(info.Size()-maxTermination, 0))
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	return strings.ToValidUTF8(string(buf[:n]), "\uFFFD"), nil
}

// terminationLog finds the log among the mounts: by the annotation, at the usual
// path, or as the one copied file that can be written to and is not the pod's.
// The last mount at a path is the one that is seen.
func terminationLog(spec *specs.Spec, id string) string {
	want := spec.Annotations[annotationTermination]
	other := ""
	for _, m := range slices.Backward(spec.Mounts) {
		if !strings.HasPrefix(m.Source, Shared+"/"+id+"-") {
			continue
		}
		switch {
		case m.Destination == want, want == "" && m.Destination == usualTermination:
			return m.Source
		case want != "" || slices.Contains(podFiles, m.Destination) || slices.Contains(m.Options, "ro"):
		case other == "":
			other = m.Source
		}
	}
	return other
}
