package clh_test

import (
	"io"
	"net"
	"testing"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhtest"
)

// TestMemoryBackend runs what every backend must pass, as each version.
func TestMemoryBackend(t *testing.T) {
	for _, version := range []string{"40.0.0", "46.0.0", "51.1.0", "53.0.0", "54.0.0"} {
		t.Run(version, func(t *testing.T) {
			h := newHost(t, memory.Script{Version: version, Vsock: map[uint32]string{1024: "{dir}/../../agent.sock"}})
			socket := h.agent("agent.sock", func(c net.Conn) { io.Copy(c, c) })
			h.script.Vsock[1024] = socket
			h.writeScript()
			clhtest.Run(t, clhtest.Machine{Options: h.o, Spec: h.spec, Port: 1024})
		})
	}
}
