// Command guest-init is the first program of a guest that boots from a root
// disk: the /init of the small ramdisk that opens the disk and becomes the /init
// on it. It never returns; if the disk does not open, the machine is switched off.
//
// Called modprobe, it loads kernel modules.
package main

import (
	"os"
	"path/filepath"

	"github.com/kata-cc/kata-cc/guest/boot"
)

func main() {
	if filepath.Base(os.Args[0]) == "modprobe" {
		if err := boot.Modprobe(os.Args[1:]); err != nil {
			say(os.Stderr, err.Error())
			os.Exit(1)
		}
		return
	}
	boot.OpenConsole()
	say(os.Stdout, "guest-init: fatal: "+boot.EnterRootDisk().Error())
	if err := boot.PowerOff(); err != nil {
		say(os.Stdout, "guest-init: power off: "+err.Error())
	}
	select {} // an init that exits makes the kernel panic
}

func say(f *os.File, line string) { _, _ = f.WriteString(line + "\n") }
