package conformance

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kata-cc/kata-cc/agentclient/agenttest"
	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

// impatience is how long containerd waits where it is to give up.
const impatience = 3 * time.Second

// consequences are the codes of requests whose predecessor had failed.
var consequences = []codes.Code{codes.NotFound, codes.FailedPrecondition}

// agentFaults are what can go wrong with a request to the agent, and the code by
// which containerd hears of it.
var agentFaults = map[string]struct {
	inject func(a *agenttest.Agent, rpc string, n int)
	code   codes.Code
}{
	"fails": {func(a *agenttest.Agent, rpc string, n int) { a.Fail(rpc, n, status.Error(codes.Internal, "no")) }, codes.Internal},
	"is refused": {func(a *agenttest.Agent, rpc string, n int) {
		a.Fail(rpc, n, status.Error(codes.PermissionDenied, rpc+"Request is blocked by policy: "))
	}, codes.PermissionDenied},
	"is late": {func(a *agenttest.Agent, rpc string, n int) { a.Delay(rpc, n, 300*time.Millisecond) }, codes.OK},
	"hangs":   {func(a *agenttest.Agent, rpc string, n int) { a.Hang(rpc, n) }, codes.DeadlineExceeded},
	"dies":    {func(a *agenttest.Agent, rpc string, n int) { a.DieAt(rpc, n) }, codes.Unavailable},
	"garbles": {func(a *agenttest.Agent, rpc string, n int) { a.Garble(rpc, n) }, codes.DataLoss},
}

// agentCalls are the requests and how often each is made, at least, in a life;
// busyAgentCalls are those that only a busy one makes.
var agentCalls = map[string]int{
	"CreateSandbox": 1, "GetGuestDetails": 1, "GetOOMEvent": 1, "CopyFile": 3, "CreateContainer": 3, "StartContainer": 3,
	"ExecProcess": 1, "ReadStdout": 1, "CloseStdin": 3, "SignalProcess": 4, "WaitProcess": 4, "RemoveContainer": 2, "DestroySandbox": 1,
}

var busyAgentCalls = map[string]int{
	"Check": 1, "SetPolicy": 1, "UpdateInterface": 2, "UpdateRoutes": 2, "AddARPNeighbors": 1, "OnlineCPUMem": 3, "TtyWinResize": 2,
	"WriteStdin": 1, "ReadStderr": 1, "StatsContainer": 1, "PauseContainer": 1, "ResumeContainer": 1, "UpdateContainer": 1,
	"ResizeVolume": 1, "GetDiagnosticData": 1,
}

// passedOn are the requests to the agent whose failure is the answer to one of
// containerd's, but for those times when nobody waits for them.
var passedOn = []string{
	"CreateSandbox", "GetGuestDetails", "CopyFile", "CreateContainer", "StartContainer", "ExecProcess", "SignalProcess", "RemoveContainer",
	"SetPolicy", "UpdateInterface", "UpdateRoutes", "AddARPNeighbors", "OnlineCPUMem", "TtyWinResize",
	"StatsContainer", "PauseContainer", "ResumeContainer", "UpdateContainer", "ResizeVolume",
}

var inBackground = []string{"UpdateInterface 2", "UpdateRoutes 2", "TtyWinResize 1"}

func TestMatrixOfAgentFaults(t *testing.T) {
	t.Parallel()
	for rpc, most := range agentCalls {
		agentRow(t, rpc, most, func(t *testing.T) *life { return newLife(newHost(t, memory.Script{})) })
	}
	for rpc, most := range busyAgentCalls {
		agentRow(t, rpc, most, func(t *testing.T) *life { return newBusyLife(newBusyHost(t)) })
	}
}

func agentRow(t *testing.T, rpc string, most int, begin func(t *testing.T) *life) {
	t.Helper()
	for n := 1; n <= most; n++ {
		for fault, f := range agentFaults {
			waits := fault == "hangs" || rpc == "SignalProcess" && f.code != codes.OK // for a time-out of the shim
			weighedCell(t, "agent", fmt.Sprintf("%s %d %s", rpc, n, fault), waits, func(t *testing.T) {
				l := begin(t)
				if fault == "hangs" {
					l.patience = impatience
				}
				code := f.code
				if rpc == "Check" && fault == "dies" { // it is dialled again, in vain
					l.h.configure(vmmBinary, "dial_timeout = 1\n")
					code = codes.DeadlineExceeded
				}
				f.inject(l.s.agent, rpc, n)
				l.walk(0, 0)
				l.end()
				if calls := count(l.s.agent, rpc); calls < n {
					t.Errorf("the fault never happened: %d calls of %s", calls, rpc)
				}
				l.wantAgentFault(rpc, n, fault, code)
			})
		}
	}
}

// wantAgentFault checks the codes that containerd saw.
func (l *life) wantAgentFault(rpc string, n int, fault string, code codes.Code) {
	l.h.t.Helper()
	if code == codes.OK || rpc == "AddARPNeighbors" && fault == "is refused" { // the guest finds them by itself
		l.wantCodes()
		return
	}
	if rpc == "ResizeVolume" && (code == codes.DataLoss || code == codes.DeadlineExceeded) {
		code = codes.Internal // HTTP has nothing better
	}
	l.wantCodes(append([]codes.Code{code, codes.Unavailable}, consequences...)...)
	if !slices.Contains(passedOn, rpc) || slices.Contains(inBackground, fmt.Sprint(rpc, " ", n)) || fault == "hangs" { // containerd gave up before it was answered
		return
	}
	if fault == "dies" && (rpc == "SignalProcess" || rpc == "RemoveContainer") { // who kills or deletes has what he wants
		return
	}
	if !slices.ContainsFunc(l.s.refusals(), func(a answer) bool { return a.code == code }) {
		l.h.t.Errorf("no request was answered %v: %v", code, l.s.refusals())
	}
}

// count is how often the agent was asked.
func count(a *agenttest.Agent, rpc string) int {
	n := 0
	for _, name := range a.Names() {
		if name == rpc {
			n++
		}
	}
	return n
}

// vmmCalls are the requests to the VMM and how often each is made in a life;
// busyVMMCalls are those that a busy one makes for other reasons: the network's
// cards, of which the second comes and goes while the pod runs, and what lets the
// machine and its disks grow.
var vmmCalls = map[string]int{
	"vmm.ping": 1, "vm.create": 1, "vm.boot": 1, "vm.add-disk": 4, "vm.remove-device": 3, "vm.info": 2, "vmm.shutdown": 1,
}

var busyVMMCalls = map[string]int{"vm.add-net": 2, "vm.remove-device": 1, "vm.resize": 8, "vm.resize-disk": 1}

// vmmFaults are what can go wrong with a request to the VMM, and the code by
// which containerd hears of it; OK: not at all.
var vmmFaults = map[string]struct {
	fault memory.Fault
	code  codes.Code
}{
	"fails":                 {memory.Fault{Do: "fail", Text: `["no"]`}, codes.Internal},
	"is done and fails":     {memory.Fault{Do: "fail-after", Text: `["no"]`}, codes.Internal},
	"begins late":           {memory.Fault{Do: "delay", For: memory.Duration(200 * time.Millisecond)}, codes.OK},
	"answers late":          {memory.Fault{Do: "late", For: memory.Duration(200 * time.Millisecond)}, codes.OK},
	"hangs":                 {memory.Fault{Do: "hang"}, codes.DeadlineExceeded},
	"is stuck":              {memory.Fault{Do: "stuck"}, codes.DeadlineExceeded},
	"is done and hangs up":  {memory.Fault{Do: "drop"}, codes.Unavailable},
	"dies":                  {memory.Fault{Do: "die"}, codes.Unavailable},
	"is done and dies":      {memory.Fault{Do: "die-after"}, codes.Unavailable},
	"answers garbage":       {memory.Fault{Do: "fail", Status: 200, Text: "\x00\xff{"}, codes.DataLoss},
	"is done, with garbage": {memory.Fault{Do: "fail-after", Status: 200, Text: `{"bdf": 7, "version": [], "state": "Asleep"}`}, codes.DataLoss},
}

func TestMatrixOfVMMFaults(t *testing.T) {
	t.Parallel()
	for endpoint, most := range vmmCalls {
		vmmRow(t, endpoint, most, func(t *testing.T) *host { return newHost(t, memory.Script{}) }, func(h *host) *life { return newLife(h) })
	}
	for endpoint, most := range busyVMMCalls {
		vmmRow(t, "busy "+endpoint, most, newBusyHost, newBusyLife)
	}
}

func vmmRow(t *testing.T, row string, most int, prepare func(t *testing.T) *host, begin func(h *host) *life) {
	t.Helper()
	endpoint := row[strings.LastIndex(row, " ")+1:]
	for name, f := range vmmFaults {
		for call := 1; call <= most; call++ {
			weighedCell(t, "VMM", fmt.Sprintf("%s %d %s", row, call, name), f.code == codes.DeadlineExceeded, func(t *testing.T) {
				h := prepare(t)
				happened := h.inject(endpoint, call, f.fault)
				l := begin(h)
				if f.code == codes.DeadlineExceeded {
					l.patience = impatience
				}
				l.walk(0, 0)
				l.end()
				if !happened() {
					t.Error("the fault never happened")
				}
				l.wantVMMFault(endpoint, f.code)
				if l.busy != nil {
					h.wantNoTap(l.busy.namespace)
				}
			})
		}
	}
}

// inject makes a call of the VMM's API fail, and tells whether it has.
func (h *host) inject(endpoint string, call int, f memory.Fault) (happened func() bool) {
	f.Endpoint, f.Call, f.Mark = endpoint, call, filepath.Join(h.dir, "happened")
	h.script.Faults = append(h.script.Faults, f)
	return func() bool {
		_, err := os.Stat(f.Mark)
		return err == nil
	}
}

func (l *life) wantVMMFault(endpoint string, code codes.Code) {
	l.h.t.Helper()
	if code == codes.OK {
		l.wantCodes()
		return
	}
	allowed := append([]codes.Code{code, codes.Unavailable}, consequences...)
	if code == codes.DataLoss || endpoint == "vm.resize-disk" { // a request without a body in its answer was just not done; HTTP has few codes
		allowed = append(allowed, codes.Internal)
	}
	if endpoint == "vm.resize" { // the VMM has no more to give
		allowed = append(allowed, codes.ResourceExhausted)
	}
	l.wantCodes(allowed...)
}
