package cluster

import (
	"context"
	"fmt"
	"path/filepath"
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
// container, over the debug console.
func (c *Cluster) Guest(ctx context.Context, sandbox, line string) (string, error) {
	return c.run(ctx, line+"\nexit\n", "kata-runtime", "exec", sandbox)
}
