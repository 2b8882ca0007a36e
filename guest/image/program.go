package image

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Go packages of the guest's own programs.
const (
	AgentPackage  = "github.com/kata-cc/kata-cc/cmd/kata-agent"
	OpenerPackage = "github.com/kata-cc/kata-cc/cmd/guest-init"
)

// DebugTag is the build tag of an agent with the debug console.
const DebugTag = "debug_console"

// BuildProgram compiles a Go package of the module that the working directory is
// in, as a static program of the guest, and returns its bytes. They depend on
// the sources and the Go version, not on the place or time of the build.
func BuildProgram(ctx context.Context, pkg string, tags ...string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "guest-program-")
	if err != nil {
		return nil, fmt.Errorf("build guest program: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	file := filepath.Join(dir, "program")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-tags", strings.Join(tags, ","),
		"-ldflags", "-s -w -buildid=", "-o", file, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1", "GOFLAGS=")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err = cmd.Run(); err != nil {
		return nil, fmt.Errorf("build guest program: go build %s: %w: %s", pkg, err, strings.TrimSpace(said.String()))
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("build guest program: %w", err)
	}
	return data, nil
}
