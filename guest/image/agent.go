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

// AgentPackage is the Go package of the guest agent.
const AgentPackage = "github.com/kata-cc/kata-cc/cmd/kata-agent"

// BuildAgent compiles a Go package of the module that the working directory is
// in, as a static program of the guest, and returns its bytes. They depend on
// the sources and the Go version, not on the place or time of the build.
func BuildAgent(ctx context.Context, pkg string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "guest-agent-")
	if err != nil {
		return nil, fmt.Errorf("build agent: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	file := filepath.Join(dir, "agent")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -buildid=", "-o", file, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1", "GOFLAGS=")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err = cmd.Run(); err != nil {
		return nil, fmt.Errorf("build agent: go build %s: %w: %s", pkg, err, strings.TrimSpace(said.String()))
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("build agent: %w", err)
	}
	return data, nil
}
