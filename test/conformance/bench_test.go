package conformance

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"golang.org/x/sys/unix"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

// With a VMM and an agent that answer at once, what is measured is the shim's
// own share; the VMM's process has to start all the same.

func BenchmarkPodStart(b *testing.B) {
	h := newHost(b, memory.Script{})
	n := 0
	var start, create time.Duration
	for b.Loop() {
		n++
		id := h.id(fmt.Sprint("p", n))
		b.StopTimer()
		agent := h.newAgent(id)
		layer := h.layer("pause")
		b.StartTimer()
		began := time.Now()
		s := h.start(id, inPod(id, id), args("pause"))
		started := time.Now()
		s.create(id, streams{}, layer)
		s.run(id, "")
		start, create = start+started.Sub(began), create+time.Since(started)
		b.StopTimer()
		s.agent = agent
		s.finish(id)
		s.disconnect()
		b.StartTimer()
	}
	b.ReportMetric(start.Seconds()*1000/float64(n), "start-ms")
	b.ReportMetric(create.Seconds()*1000/float64(n), "create+start-ms")
}

func BenchmarkContainerStart(b *testing.B) {
	h := newHost(b, memory.Script{})
	s := h.runningPod()
	n := 0
	for b.Loop() {
		n++
		b.StopTimer()
		id := h.id(fmt.Sprint("c", n))
		s.attach(id)
		top, base := h.layer("top"), h.layer("base")
		b.StartTimer()
		s.create(id, streams{}, top, base)
		s.run(id, "")
		b.StopTimer()
		s.kill(id, "", uint32(unix.SIGKILL))
		s.wait(id, "")
		s.remove(id, "")
		b.StartTimer()
	}
	s.finish(s.id)
}

func BenchmarkExec(b *testing.B) {
	h := newHost(b, memory.Script{})
	s := h.running()
	for b.Loop() {
		s.exec(s.id, "e", streams{}, "true")
		s.run(s.id, "e")
		s.wait(s.id, "e")
		s.remove(s.id, "e")
	}
	s.finish(s.id)
}

func BenchmarkKillToExit(b *testing.B) {
	h := newHost(b, memory.Script{})
	s := h.running()
	n := 0
	for b.Loop() {
		b.StopTimer()
		n++
		exec := fmt.Sprint("e", n)
		s.exec(s.id, exec, streams{}, "sleep", "inf")
		s.run(s.id, exec)
		b.StartTimer()
		s.kill(s.id, exec, uint32(unix.SIGKILL))
		s.wait(s.id, exec)
		b.StopTimer()
		s.remove(s.id, exec)
		b.StartTimer()
	}
	s.finish(s.id)
}

func BenchmarkMachineDeathToExit(b *testing.B) {
	h := newHost(b, memory.Script{})
	n := 0
	for b.Loop() {
		b.StopTimer()
		n++
		s := h.single(fmt.Sprint("m", n))
		s.create(s.id, streams{}, h.layer("base"))
		s.run(s.id, "")
		vmm := h.vmms()
		b.StartTimer()
		unix.Kill(vmm[0], unix.SIGKILL)
		s.wait(s.id, "")
		b.StopTimer()
		s.remove(s.id, "")
		s.shutdown(s.id)
		s.disconnect()
		h.eventually("the end of the shim", func() bool { return len(h.processes()) == 0 })
		b.StartTimer()
	}
}

func BenchmarkDeleteOfADeadSandbox(b *testing.B) {
	h := newHost(b, memory.Script{})
	n := 0
	for b.Loop() {
		b.StopTimer()
		n++
		s := h.single(fmt.Sprint("d", n))
		s.create(s.id, streams{}, h.layer("base"))
		s.run(s.id, "")
		unix.Kill(s.pid, unix.SIGKILL)
		h.eventually("the end of the shim", func() bool { return len(h.processes()) == 1 })
		b.StartTimer()
		h.delete(s.id)
	}
}

// BenchmarkMemory reports what a shim holds, not how long anything takes.
func BenchmarkMemory(b *testing.B) {
	h := newHost(b, memory.Script{})
	s := h.pod("pod")
	var idle, ten, execs float64
	for range b.N {
		if ten != 0 {
			continue // once is enough: the figure does not depend on time
		}
		s.create(s.id, streams{}, h.layer("pause"))
		s.run(s.id, "")
		time.Sleep(2 * time.Second) // a shim gives memory back a second after a start
		idle = s.resident()
		var ids []string
		for i := range 10 {
			id := h.id(fmt.Sprint("c", i))
			ids = append(ids, id)
			s.attach(id)
			stdout, stderr := h.fifo(id+"-out"), h.fifo(id+"-err")
			h.read(stdout)
			h.read(stderr)
			s.create(id, streams{stdout: stdout, stderr: stderr}, h.layer(fmt.Sprint(i)), h.layer("base"))
			s.run(id, "")
		}
		ten = s.resident()
		for _, id := range ids {
			stdout := h.fifo(id + "-exec")
			h.read(stdout)
			s.exec(id, "e", streams{stdout: stdout}, "sleep", "inf")
			s.run(id, "e")
		}
		execs = s.resident()
		for _, id := range ids {
			if _, err := s.State(h.ctx(), &taskapi.StateRequest{ID: id}); err != nil {
				b.Fatal(err)
			}
		}
		s.finish(ids...)
		s.finish(s.id)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(idle, "idle-MiB")
	b.ReportMetric(ten, "ten-containers-MiB")
	b.ReportMetric(execs, "ten-execs-too-MiB")
}

// resident is the shim's resident memory in MiB.
func (s *shim) resident() float64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pid))
	if err != nil {
		s.h.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if kb, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.Atoi(strings.Fields(kb)[0])
			if err != nil {
				s.h.t.Fatal(err)
			}
			return float64(n) / 1024
		}
	}
	return 0
}
