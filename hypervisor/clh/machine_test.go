package clh_test

import (
	"context"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
	"testing"
)

func TestLife(t *testing.T) {
	h := newHost(t, memory.Script{Console: "Linux version 6.1\n"})
	vm := h.boot()
	at, err := vm.HotplugDisk(t.Context(), h.disk("layer1"))
	t.Log(at, err, vm.Process(), vm.Console())
	t.Log(vm.UnplugDisk(t.Context(), "layer1"))
	t.Log(vm.Stop(context.Background()))
	t.Log(vm.Wait(t.Context()))
}
