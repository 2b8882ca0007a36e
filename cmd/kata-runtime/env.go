package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/configuration"
)

// version says what this program is built from.
type version struct {
	Version string
	Commit  string
	OCI     string
}

func versions() version {
	v := version{Version: "devel", Commit: "unknown", OCI: specs.Version}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	if info.Main.Version != "" && info.Main.Version != "(devel)" {
		v.Version = info.Main.Version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v.Commit = s.Value
		}
	}
	return v
}

// environmentData is what env prints, under the names of Kata Containers' tool.
type environmentData struct {
	Kernel struct {
		Path       string
		Parameters string
	}
	Image      struct{ Path string }
	Initrd     struct{ Path string }
	Hypervisor struct {
		Path              string
		Version           string
		DefaultVCPUs      float64
		DefaultMemory     uint64 // MiB
		SharedFS          string
		Debug             bool
		DisableSeccomp    bool
		EnableAnnotations []string
	}
	Agent struct {
		Debug        bool
		DebugConsole bool
	}
	Runtime struct {
		Config              struct{ Path string }
		DropIns             []string
		Version             version
		Debug               bool
		DisableGuestSeccomp bool
		Network             string
	}
	Host struct {
		Kernel       string
		Architecture string
		CPUs         int
		KVM          bool
	}
}

func environment(ctx context.Context, c *configuration.Config) environmentData {
	var e environmentData
	h := c.Hypervisor
	e.Kernel.Path, e.Kernel.Parameters = h.Kernel, c.KernelParams()
	e.Image.Path, e.Initrd.Path = h.Image, h.Initrd
	e.Hypervisor.Path, e.Hypervisor.Version = h.Path, vmmVersion(ctx, h.Path)
	e.Hypervisor.DefaultVCPUs, e.Hypervisor.DefaultMemory = h.DefaultVCPUs, h.DefaultMemoryMiB
	e.Hypervisor.SharedFS, e.Hypervisor.Debug, e.Hypervisor.DisableSeccomp = "none", h.Debug, h.DisableSeccomp
	e.Hypervisor.EnableAnnotations = h.EnableAnnotations
	e.Agent.Debug, e.Agent.DebugConsole = c.Agent.Debug, c.Agent.DebugConsole
	e.Runtime.Config.Path, e.Runtime.DropIns, e.Runtime.Version = c.Path, c.DropIns, versions()
	e.Runtime.Debug, e.Runtime.Network = c.Runtime.Debug, string(c.Runtime.Network)
	e.Runtime.DisableGuestSeccomp = c.Runtime.DisableGuestSeccomp
	e.Host.Architecture, e.Host.CPUs = runtime.GOARCH, runtime.NumCPU()
	e.Host.KVM = unix.Access("/dev/kvm", unix.R_OK|unix.W_OK) == nil
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		e.Host.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	return e
}

// vmmVersion asks the VMM; an empty answer says that it did not tell.
func vmmVersion(ctx context.Context, path string) string {
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return ""
	}
	line, _, _ := bytes.Cut(out, []byte("\n"))
	return strings.TrimSpace(string(line))
}

func printEnvironment(w io.Writer, e environmentData, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(e)
	}
	return toml.NewEncoder(w).Encode(e)
}
