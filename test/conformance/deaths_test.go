package conformance

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

// victims are who may die between two steps, or while one is under way.
var victims = map[string]func(l *life){
	"shim":  func(l *life) { killShim(l.h, l.s) },
	"VMM":   func(l *life) { l.h.killVMMs() },
	"agent": func(l *life) { l.s.agent.Die() },
	"containerd": func(l *life) {
		l.lostEvents = true
		l.h.sink.close()
		os.Remove(filepath.Join(l.h.dir, "events.sock"))
	},
}

func (h *host) killVMMs() {
	for _, pid := range h.vmms() {
		unix.Kill(pid, unix.SIGKILL)
	}
}

// Somebody dies between two steps: the rest of the life answers in time, every
// process that started is told to have ended, and nothing is left.
func TestMatrixOfDeathsBetweenSteps(t *testing.T) {
	t.Parallel()
	for victim, die := range victims {
		for at, phase := range phases() {
			cell(t, victim, fmt.Sprintf("%s after %s", victim, phase), func(t *testing.T) {
				l := newLife(newHost(t, memory.Script{}))
				l.walk(0, at+1)
				die(l)
				if victim == "shim" {
					l.endByDelete()
					return
				}
				if at+1 < len(phases()) {
					l.walk(at+1, 0)
				}
				if victim == "containerd" {
					l.h.sink.listen(filepath.Join(l.h.dir, "events.sock"))
				}
				l.end()
				l.wantCodes(append([]codes.Code{codes.Unavailable}, consequences...)...)
			})
		}
	}
}

// Somebody dies while the agent has a request that it does not answer.
func TestMatrixOfDeathsDuringARequest(t *testing.T) {
	t.Parallel()
	plain := func(t *testing.T) *host { return newHost(t, memory.Script{}) }
	begin := func(h *host) *life { return newLife(h) }
	for _, victim := range []string{"shim", "VMM"} {
		for rpc, most := range agentCalls {
			deathsInRequests(t, victim, rpc, most, plain, begin)
		}
		for rpc, most := range busyAgentCalls {
			deathsInRequests(t, victim, rpc, most, newBusyHost, newBusyLife)
		}
		for endpoint, most := range vmmCalls {
			deathsInCalls(t, victim, endpoint, most, plain, begin)
		}
		for endpoint, most := range busyVMMCalls {
			deathsInCalls(t, victim, "busy "+endpoint, most, newBusyHost, newBusyLife)
		}
	}
}

func deathsInRequests(t *testing.T, victim, rpc string, most int, prepare func(t *testing.T) *host, begin func(h *host) *life) {
	t.Helper()
	for n := 1; n <= most; n++ {
		cell(t, victim, fmt.Sprintf("%s in %s %d", victim, rpc, n), func(t *testing.T) {
			l := begin(prepare(t))
			l.s.agent.Hang(rpc, n)
			l.dieDuring(victim, func() bool { return count(l.s.agent, rpc) >= n })
		})
	}
}

func deathsInCalls(t *testing.T, victim, row string, most int, prepare func(t *testing.T) *host, begin func(h *host) *life) {
	t.Helper()
	endpoint := row[strings.LastIndex(row, " ")+1:]
	for n := 1; n <= most; n++ {
		cell(t, victim, fmt.Sprintf("%s in %s %d", victim, row, n), func(t *testing.T) {
			h := prepare(t)
			happened := h.inject(endpoint, n, memory.Fault{Do: "stuck"})
			begin(h).dieDuring(victim, happened)
		})
	}
}

// dieDuring walks a life in which somebody dies once a request has come that is
// not answered.
func (l *life) dieDuring(victim string, came func() bool) {
	l.h.t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.walk(0, 0)
		if victim != "shim" {
			l.end()
		}
	}()
	for !came() {
		select {
		case <-done:
			l.h.t.Errorf("this life ended without that request: %q", l.s.agent.Names())
			if victim == "shim" {
				l.end()
			}
			return
		case <-time.After(2 * time.Millisecond):
		}
	}
	victims[victim](l)
	<-done
	if victim == "shim" {
		l.endByDelete()
		return
	}
	l.wantCodes(append([]codes.Code{codes.Unavailable}, consequences...)...)
}
