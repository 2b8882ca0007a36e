package bootstrap

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/containerd/containerd/api/types"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/kata-cc/kata-cc/mounts"
)

// Version returns the version of the program and the commit it was built from.
func Version() (version, revision string) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown", ""
	}
	version = info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			revision = s.Value
		}
	}
	return version, revision
}

// allowMounts is the annotation that names the mounts which the runtime does
// itself, so that containerd 2.3 and later leave them to it.
const allowMounts = "containerd.io/runtime-allow-mounts"

// featuresURL is the type under which containerd looks for a runtime's
// features, which are those of OCI in JSON.
const featuresURL = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"

// mountOptions are what a mount of a container may ask for: what crun knows,
// which mounts it in the guest. containerd reads from "rro" whether it may offer
// recursively read-only mounts.
var mountOptions = []string{
	"async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "mand", "noatime", "nodev", "nodiratime",
	"noexec", "nomand", "norelatime", "nostrictatime", "nosuid", "private", "ratime", "rbind", "rdev", "rdiratime",
	"relatime", "remount", "rexec", "rnoatime", "rnodev", "rnodiratime", "rnoexec", "rnorelatime", "rnostrictatime",
	"rnosuid", "ro", "rprivate", "rrelatime", "rro", "rrw", "rshared", "rslave", "rstrictatime", "rsuid", "runbindable",
	"rw", "shared", "slave", "strictatime", "suid", "sync", "unbindable",
}

// WriteInfo answers "-info": what containerd wants to know of a runtime, as a
// RuntimeInfo.
func WriteInfo(w io.Writer, runtimeName string) error {
	version, revision := Version()
	oci, err := json.Marshal(features.Features{OCIVersionMin: "1.0.0", OCIVersionMax: specs.Version, MountOptions: mountOptions})
	if err != nil {
		return err
	}
	info, err := proto.Marshal(&types.RuntimeInfo{
		Name:        runtimeName,
		Features:    &anypb.Any{TypeUrl: featuresURL, Value: oci},
		Version:     &types.RuntimeVersion{Version: version, Revision: revision},
		Annotations: map[string]string{allowMounts: mounts.TardevType},
	})
	if err != nil {
		return err
	}
	_, err = w.Write(info)
	return err
}

// WriteVersion answers "-v" and "--version", for people.
func WriteVersion(w io.Writer, program string) error {
	version, revision := Version()
	_, err := fmt.Fprintf(w, "%s:\n  Version:    %s\n  Revision:   %s\n  Go version: %s\n", program, version, revision, runtime.Version())
	return err
}
