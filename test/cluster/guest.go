package cluster

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
)

// VMDir is where the runtime keeps the sockets of a sandbox's VMM.
func VMDir(sandbox string) string { return filepath.Join("/run/vc/vm", sandbox) }

// VMInfo asks the sandbox's VMM for its document, through jq's filter.
func (c *Cluster) VMInfo(ctx context.Context, sandbox, filter string) (string, error) {
	return c.Shell(ctx, VMInfoCommand(sandbox, filter))
}

// VMInfoCommand is what a person would type for the same.
func VMInfoCommand(sandbox, filter string) string {
	return fmt.Sprintf("curl -s --unix-socket %s/clh-api.sock http://localhost/api/v1/vm.info | jq '%s'", VMDir(sandbox), filter)
}

// Guest runs a line of shell as root in the sandbox's guest, outside every
// container, over the debug console. The console is a terminal that echoes what
// is typed and shows prompts; what is returned is the line's output alone.
func (c *Cluster) Guest(ctx context.Context, sandbox, line string) (string, error) {
	// The quotes keep the echo of these lines from looking like their output.
	typed := "echo out'put:'\n" + line + "\necho sta'tus' $?\n"
	out, err := c.run(ctx, "stty -echo; PS1=\n"+typed, "kata-runtime", "exec", sandbox)
	if err != nil {
		return out, err
	}
	out = strings.ReplaceAll(out, "\r", "")
	_, out, begun := strings.Cut(out, "output:\n")
	end := strings.LastIndex(out, "status ")
	if !begun || end < 0 {
		return out, fmt.Errorf("the console of sandbox %s ended within %q: %s", sandbox, line, out)
	}
	if status := strings.TrimSpace(strings.SplitN(out[end+len("status "):], "\n", 2)[0]); status != "0" {
		return out[:end], fmt.Errorf("in the guest of sandbox %s, %q ended with status %s: %s", sandbox, line, status, out[:end])
	}
	return out[:end], nil
}
