// Command guest-init is the first program of a guest that boots from a root
// disk: the /init of the small ramdisk that opens the disk and becomes the /init
// on it. It never returns; if the disk does not open, the machine is switched off.
package main

import (
	"os"

	"github.com/kata-cc/kata-cc/guest/boot"
)

func main() {
	boot.OpenConsole()
	_, _ = os.Stdout.WriteString("guest-init: fatal: " + boot.EnterRootDisk().Error() + "\n")
	if err := boot.PowerOff(); err != nil {
		_, _ = os.Stdout.WriteString("guest-init: power off: " + err.Error() + "\n")
	}
	select {} // an init that exits makes the kernel panic
}
