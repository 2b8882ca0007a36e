package bootstrap

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/proto"

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

// WriteInfo answers "-info": what containerd wants to know of a runtime, as a
// RuntimeInfo.
func WriteInfo(w io.Writer, runtimeName string) error {
	version, revision := Version()
	info, err := proto.Marshal(&types.RuntimeInfo{
		Name:        runtimeName,
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
