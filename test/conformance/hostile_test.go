package conformance

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

// What a guest may throw at the shim: no message is longer than ttrpc lets
// through, a little less than 4 MiB.
const (
	hugeMessage = 4<<20 - 4096
	allOutput   = 1 << 30
	mayGrow     = 32 << 20 // the shim's memory, while all that comes
)

// hostile answers a request of the shim with anything.
type hostile = func(ctx context.Context, request proto.Message) (proto.Message, error)

// grown calls do and returns by how much the shim's memory grew at most meanwhile,
// in bytes.
func (s *shim) grown(do func()) int {
	s.h.t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", s.pid), []byte("5"), 0); err != nil {
		s.h.t.Fatal(err) // the peak is counted from here on
	}
	before := s.memory("VmRSS")
	do()
	return s.memory("VmHWM") - before
}

// memory reads one of the shim's sizes, in bytes.
func (s *shim) memory(name string) int {
	s.h.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pid))
	if err != nil {
		s.h.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == name+":" {
			kib, err := strconv.Atoi(fields[1])
			if err != nil {
				s.h.t.Fatal(err)
			}
			return kib << 10
		}
	}
	s.h.t.Fatalf("no %s in %s", name, text)
	return 0
}

// wantSound checks that the shim lives, answers and has not grown.
func (s *shim) wantSound(grown int) {
	s.h.t.Helper()
	if grown > mayGrow {
		s.h.t.Errorf("the shim grew by %d MiB", grown>>20)
	}
	ctx, cancel := context.WithTimeout(s.h.ctx(), 2*answerLimit)
	defer cancel()
	if _, err := s.State(ctx, &taskapi.StateRequest{ID: s.id}); err != nil {
		s.h.t.Errorf("state: %v", err)
	}
	s.h.t.Logf("the shim grew by %.1f MiB", float64(grown)/(1<<20))
}

// endless answers reads with messages as long as they can be, whatever length was
// asked for, until all of the output was given. Then the process ends.
func endless(given *atomic.Int64) hostile {
	message := &agentpb.ReadStreamResponse{Data: make([]byte, hugeMessage-1024)}
	return func(context.Context, proto.Message) (proto.Message, error) {
		if given.Load() >= allOutput {
			return &agentpb.ReadStreamResponse{}, nil
		}
		given.Add(int64(len(message.Data)))
		return message, nil
	}
}

func TestEndlessOutputDoesNotGrowTheShim(t *testing.T) {
	for name, read := range map[string]func(f *os.File, stop <-chan struct{}){
		"to a reader": func(f *os.File, _ <-chan struct{}) { _, _ = io.Copy(io.Discard, f) },
		"to a slow reader": func(f *os.File, stop <-chan struct{}) {
			buf := make([]byte, 4096)
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
				}
				if _, err := f.Read(buf); err != nil {
					return
				}
			}
		},
		"to nobody": func(f *os.File, _ <-chan struct{}) { f.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, memory.Script{})
			s := h.running()
			var given atomic.Int64
			s.agent.Answer("ReadStdout", endless(&given))
			stdout := h.fifo("out")
			opened := make(chan *os.File, 1)
			go func() {
				f, err := os.Open(stdout)
				if err != nil {
					t.Error(err)
				}
				opened <- f
			}()
			stop, done := make(chan struct{}), make(chan struct{})
			grown := s.grown(func() {
				s.exec(s.id, "e", streams{stdout: stdout}, "sleep", "inf")
				s.run(s.id, "e")
				f := <-opened
				go func() {
					defer close(done)
					read(f, stop)
				}()
				if name == "to a reader" {
					h.eventually("all output", func() bool { return given.Load() >= allOutput })
				} else {
					time.Sleep(2 * time.Second)
				}
				s.kill(s.id, "e", uint32(unix.SIGKILL))
				if got := s.wait(s.id, "e"); got != 128+9 {
					t.Errorf("exit status %d", got)
				}
				close(stop)
				<-done
				f.Close()
			})
			s.wantSound(grown)
			s.finish(s.id)
		})
	}
}

func TestExitStatusThatCannotBe(t *testing.T) {
	for _, code := range []int32{-1, 256, 1 << 30, -1 << 31} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			h := newHost(t, memory.Script{})
			s := h.single("one")
			end := make(chan struct{})
			s.agent.Answer("WaitProcess", func(_ context.Context, request proto.Message) (proto.Message, error) {
				if request.(*agentpb.WaitProcessRequest).ExecId == s.id {
					<-end
				}
				return &agentpb.WaitProcessResponse{Status: code}, nil
			})
			s.create(s.id, streams{}, h.layer("base"))
			s.run(s.id, "")
			s.exec(s.id, "e", streams{}, "true")
			s.run(s.id, "e")
			if got := s.wait(s.id, "e"); got != 255 {
				t.Errorf("exit status %d", got)
			}
			h.wantEvent("exit " + s.id + " e 255")
			close(end)
			s.finish(s.id)
		})
	}
}

// A guest that answers what was never asked has lost its pod: neither the shim nor
// its log grows.
func TestAnswersThatNobodyAskedFor(t *testing.T) {
	h := newHost(t, memory.Script{})
	k := h.disturbable(h.id("one"))
	s := h.running()
	before := len(s.log())
	grown := s.grown(func() {
		answers := []byte(strings.Repeat(string(frame(0, 1<<20+1, 2)), 200_000))
		k.toShim(func(c *net.UnixConn) { write(c, answers) })
		if got := s.wait(s.id, ""); got != 255 {
			t.Errorf("exit status %d", got)
		}
	})
	s.wantSound(grown)
	if more := len(s.log()) - before; more > 64<<10 {
		t.Errorf("the shim wrote %d bytes into its log", more)
	}
	s.finish(s.id)
}

// raves are answers that no honest agent gives, by request.
var raves = map[string]struct {
	rpc    string
	answer hostile
}{
	"events of unknown containers": {"GetOOMEvent", say(&agentpb.OOMEvent{ContainerId: "unknown"})},
	"events with endless names":    {"GetOOMEvent", say(&agentpb.OOMEvent{ContainerId: strings.Repeat("x", hugeMessage)})},
	"events that fail at once":     {"GetOOMEvent", fail(strings.Repeat("no ", 1<<16))},
	"an endless version":           {"GetGuestDetails", say(&agentpb.GuestDetailsResponse{AgentDetails: &agentpb.AgentDetails{Version: strings.Repeat("9", hugeMessage-1024)}})},
	"counters without end":         {"StatsContainer", say(countersWithoutEnd())},
	"no counters":                  {"StatsContainer", say(&agentpb.StatsContainerResponse{})},
	"an endless reason":            {"StatsContainer", fail(strings.Repeat("because ", hugeMessage/8-128))},
	"a reason that is no text":     {"ExecProcess", fail("\x00\x1b[2J\r\n")},
	"more written than there was":  {"WriteStdin", say(&agentpb.WriteStreamResponse{Len: 1<<32 - 1})},
	"nothing written":              {"WriteStdin", say(&agentpb.WriteStreamResponse{})},
	"empty output for ever":        {"ReadStdout", say(&agentpb.ReadStreamResponse{})},
	"interfaces instead":           {"SignalProcess", say(&agentpb.Interface{Name: "eth0", Mtu: 1 << 40})},
	"checks that are not served":   {"Check", say(&agentpb.HealthCheckResponse{Status: agentpb.HealthCheckResponse_NOT_SERVING})},
}

func say(m proto.Message) hostile {
	return func(context.Context, proto.Message) (proto.Message, error) { return m, nil }
}

func fail(text string) hostile {
	return func(context.Context, proto.Message) (proto.Message, error) {
		return nil, status.Error(codes.Internal, text)
	}
}

func countersWithoutEnd() *agentpb.StatsContainerResponse {
	c := &agentpb.CgroupStats{
		MemoryStats: &agentpb.MemoryStats{Stats: map[string]uint64{}}, BlkioStats: &agentpb.BlkioStats{}, HugetlbStats: map[string]*agentpb.HugetlbStats{},
		CpuStats: &agentpb.CpuStats{CpuUsage: &agentpb.CpuUsage{PercpuUsage: make([]uint64, 1<<16)}},
	}
	for i := range 1 << 15 {
		name := fmt.Sprint("counter", i)
		c.MemoryStats.Stats[name] = 1<<64 - 1
		c.HugetlbStats[name] = &agentpb.HugetlbStats{Usage: 1<<64 - 1}
		c.BlkioStats.IoServiceBytesRecursive = append(c.BlkioStats.IoServiceBytesRecursive, &agentpb.BlkioStatsEntry{Major: uint64(i), Op: "Read", Value: 1})
	}
	return &agentpb.StatsContainerResponse{CgroupStats: c}
}

// A guest that raves harms nobody but itself: the shim lives, answers, and stays
// small, and its pod can be removed.
func TestHostileGuest(t *testing.T) {
	for name, rave := range raves {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, memory.Script{})
			s := h.single("one")
			s.agent.Answer(rave.rpc, rave.answer)
			grown := s.grown(func() { s.suffer(rave.rpc) })
			s.wantSound(grown)
			for _, e := range h.sink.list() {
				if strings.HasPrefix(e, "oom") {
					t.Errorf("containerd was told %.100q", e)
				}
			}
			s.finish(s.id)
		})
	}
}

// suffer lets the shim ask what the guest answers falsely.
func (s *shim) suffer(rpc string) {
	s.h.t.Helper()
	s.create(s.id, streams{}, s.h.layer("base"))
	s.run(s.id, "")
	stdin, stdout := s.h.fifo("in"), s.h.fifo("out")
	s.h.read(stdout)
	s.exec(s.id, "e", streams{stdin: stdin, stdout: stdout}, "cat")
	if _, err := s.Start(s.h.ctx(), &taskapi.StartRequest{ID: s.id, ExecID: "e"}); err == nil {
		f, err := os.OpenFile(stdin, os.O_WRONLY, 0)
		if err != nil {
			s.h.t.Fatal(err)
		}
		_, _ = f.WriteString("hello") // nobody need read it
		f.Close()
		time.Sleep(300 * time.Millisecond) // time to rave
	}
	for range 2 {
		_, _ = s.Stats(s.h.ctx(), &taskapi.StatsRequest{ID: s.id})
	}
	if rpc == "SignalProcess" {
		s.agent.Finish(s.id, "", 0) // no signal reaches it
	}
}
