package conformance

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

func killShim(h *host, s *shim) {
	h.t.Helper()
	unix.Kill(s.pid, unix.SIGKILL)
	h.eventually("the shim's end", func() bool { _, ok := h.processes()[s.pid]; return !ok })
}

func TestDeleteAfterTheShimWasKilled(t *testing.T) {
	h := newHost(t, memory.Script{})
	s := h.runningPod()
	id := h.id("a")
	s.attach(id)
	s.create(id, streams{}, h.layer("base"))
	killShim(h, s)
	if len(h.vmms()) != 1 {
		t.Errorf("%d VMMs", len(h.vmms()))
	}
	for range 2 { // it may be repeated
		for _, id := range []string{id, s.id} {
			if r := h.delete(id); r.ExitStatus != 128+9 || r.ExitedAt == nil {
				t.Errorf("delete of %s answered %v", id, r)
			}
		}
	}
}

func TestDeleteAfterTheShimWasKilledDuringCreate(t *testing.T) {
	hang := func(endpoint string) memory.Script {
		return memory.Script{Faults: []memory.Fault{{Endpoint: endpoint, Do: "hang"}}}
	}
	for name, c := range map[string]struct {
		script memory.Script
		agent  string // the request that hangs
	}{
		"describing the machine": {script: hang("vm.create")},
		"adding a card":          {script: hang("vm.add-net")},
		"booting":                {script: hang("vm.boot")},
		"waiting for the agent":  {script: memory.Script{Vsock: map[uint32]string{1024: "/nowhere"}}},
		"preparing the guest":    {agent: "CreateSandbox"},
		"plugging a layer":       {script: hang("vm.add-disk")},
		"creating the container": {agent: "CreateContainer"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, c.script)
			network := h.namespaceWithLink()
			s := h.pod("pod", netns("/run/netns/"+network))
			if c.agent != "" {
				defer s.agent.Hang(c.agent, 1)()
			}
			go s.tryCreate(h.ctx(), s.id, streams{}, h.layer("pause")) // its connection breaks
			h.eventually("the VMM", func() bool { return len(h.vmms()) == 1 })
			time.Sleep(100 * time.Millisecond) // on to where it hangs
			killShim(h, s)
			h.delete(s.id)
			if links := h.ip("-n", network, "-o", "link"); strings.Contains(links, "kata") {
				t.Errorf("left are %s", links)
			}
		})
	}
}

func TestShimThatIsToldToEnd(t *testing.T) {
	h := newHost(t, memory.Script{})
	s := h.running()
	unix.Kill(s.pid, unix.SIGTERM)
	h.eventually("the end of shim and VMM", func() bool { return len(h.processes()) == 0 })
	h.wantEvent("exit " + s.id + " " + s.id + " 137")
	h.delete(s.id)
}

func TestLaterContainerNeedsALivingShim(t *testing.T) {
	h := newHost(t, memory.Script{})
	id := h.id("a")
	if _, err := h.tryStart(id, inPod(h.id("nowhere"), id)); err == nil {
		t.Fatal("no error")
	} else {
		wantText(t, err, "does not answer", h.id("nowhere"))
	}
	h.delete(id)
}

func TestStartFindsALivingShim(t *testing.T) {
	h := newHost(t, memory.Script{})
	s := h.running()
	bundle := filepath.Join(h.dir, "bundles", s.id)
	out, err := h.command(bundle, "-id", s.id, "start").Output()
	if err != nil || string(out) != "unix://"+socketOf(h.address, s.id) {
		t.Errorf("start answered %q, %v", out, err)
	}
	s.finish(s.id)
}
