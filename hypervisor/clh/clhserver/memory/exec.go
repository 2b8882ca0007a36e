package memory

import (
	"os"
	"slices"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver"
)

// Main is a VMM's main function with the machine in memory; its script comes
// from ScriptEnv. It returns the exit status.
func Main(args []string) int {
	return clhserver.Main("clh-memory", args, clhserver.Config{}, func(_ clhserver.Command, c *clhserver.Config) error {
		s, err := ScriptFromEnv()
		if err != nil {
			return err
		}
		if c.Profile, err = clhserver.ProfileOf(s.Version); err != nil {
			return err
		}
		c.Backend = New(s)
		c.Intercept = s.Intercept
		return nil
	})
}

// Exec makes the process a VMM if it was started like one, and returns
// otherwise. It lets a test binary be the VMM that the test launches.
func Exec() {
	if slices.Contains(os.Args, "--api-socket") {
		os.Exit(Main(os.Args[1:]))
	}
}
