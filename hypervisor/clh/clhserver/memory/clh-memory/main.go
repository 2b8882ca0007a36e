// Command clh-memory is started like cloud-hypervisor and answers its API with
// a machine that exists in memory only. The environment variable
// CLH_MEMORY_SCRIPT says what its guest does and what goes wrong: see package
// memory.
package main

import (
	"os"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

func main() { os.Exit(memory.Main(os.Args[1:])) }
