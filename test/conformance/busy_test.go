package conformance

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/errdefs/pkg/errhttp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kata-cc/kata-cc/hypervisor/clh/clhserver/memory"
)

// busy is what a pod has that uses everything: a policy, a network with a
// neighbour, a machine that follows its containers, a volume that grows, a
// termination log, input and a terminal. Its life makes every request to the agent
// and every call of the VMM's API that the shim knows.
type busy struct {
	namespace string
	volume    string
	lastWords string
}

// newBusyHost prepares the host of such a pod.
func newBusyHost(t *testing.T) *host {
	h := newHost(t, memory.Script{Version: "51"}) // resizes disks
	h.grow()
	return h
}

// newBusyLife is newLife for such a pod.
func newBusyLife(h *host) *life {
	h.t.Helper()
	b := &busy{namespace: h.namespaceWithLink()}
	h.ip("-n", b.namespace, "neigh", "add", "192.0.2.1", "lladdr", "02:00:00:00:00:01", "dev", "eth0", "nud", "permanent")
	b.volume, _ = directVolume(h.t)
	b.lastWords = h.write("termination-log", "")
	l := newLife(h, netns("/run/netns/"+b.namespace), annotation(policyAnnotation, base64Of("package agent_policy\n")))
	l.busy = b
	return l
}

// changes are those of a container's specification.
func (l *life) changes(id string) []change {
	switch {
	case l.busy == nil:
		return nil
	case id == l.other:
		return []change{limited(0.5, 28)}
	}
	return []change{limited(1.5, 200), mounting(l.busy.volume, "/data"), mounting(l.busy.lastWords, "/dev/termination-log")}
}

// streams are those of a container.
func (l *life) streams(id string) streams {
	if l.busy == nil || id != l.id {
		return streams{}
	}
	path := l.h.fifo("err")
	l.h.read(path)
	return streams{stderr: path}
}

// terminal gives an exec a terminal, and input that somebody has written already.
func (l *life) terminal(io streams) streams {
	if l.busy == nil {
		return io
	}
	io.terminal, io.stdin = true, l.h.fifo("in")
	in, err := os.OpenFile(io.stdin, os.O_RDWR, 0)
	if err == nil {
		_, err = in.WriteString("input\n")
		l.h.t.Cleanup(func() { in.Close() })
	}
	if err != nil {
		l.h.t.Error(err)
	}
	return io
}

// resizeTerminal gives the exec's terminal a size, now or when it starts.
func (l *life) resizeTerminal() {
	_, _ = l.s.ResizePty(l.ctx(), &taskapi.ResizePtyRequest{ID: l.id, ExecID: "e", Width: 80, Height: 25})
}

// useEverything makes the requests that most lives do without.
func (l *life) useEverything() {
	s := l.s
	l.resizeTerminal()
	_, _ = s.Stats(l.ctx(), &taskapi.StatsRequest{ID: l.id})
	_, _ = s.Pause(l.ctx(), &taskapi.PauseRequest{ID: l.id})
	_, _ = s.Resume(l.ctx(), &taskapi.ResumeRequest{ID: l.id})
	_ = s.tryUpdate(l.ctx(), l.id, resources(2.5, 400))
	l.growVolume()
	l.changeLinks()
}

// growVolume asks for the volume to grow, and notes the answer as if it were
// containerd's.
func (l *life) growVolume() {
	httpStatus, text, err := l.s.tryResize(l.ctx(), l.busy.volume, 4<<20)
	if err != nil {
		return // nobody serves volumes of a pod that could not be made
	}
	var code codes.Code
	if httpStatus != http.StatusOK {
		code = status.Code(errgrpc.ToGRPC(errhttp.ToNative(httpStatus)))
	}
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	l.s.answers = append(l.s.answers, answer{rpc: "ResizeVolume", code: code, text: text})
}

// notice is how long the shim may take to notice a link; only a fault makes it
// take that long.
const notice = 2 * time.Second

// changeLinks adds a link to the pod's namespace, and takes it away.
func (l *life) changeLinks() {
	name := l.busy.namespace
	hasTap := func(n int) bool {
		_, err := os.Stat(fmt.Sprintf("/proc/%d/cwd", l.s.pid))
		return err == nil && exec.Command("ip", "-n", name, "link", "show", fmt.Sprintf("tap%d_kata", n)).Run() == nil
	}
	until := func(ok func() bool) {
		for deadline := time.Now().Add(notice); hasTap(0) && !ok() && time.Now().Before(deadline); {
			time.Sleep(20 * time.Millisecond)
		}
	}
	if !hasTap(0) {
		return // the pod has gone
	}
	routes, cards := count(l.s.agent, "UpdateRoutes"), count(l.s.agent, "UpdateInterface")
	far := "far" + name[len(name)-6:]
	_ = exec.Command("ip", "link", "add", far, "type", "veth", "peer", "name", "net1", "netns", name).Run()
	_ = exec.Command("ip", "-n", name, "address", "add", "198.51.100.2/24", "dev", "net1").Run()
	_ = exec.Command("ip", "-n", name, "link", "set", "net1", "up").Run()
	until(func() bool {
		return count(l.s.agent, "UpdateInterface") > cards && count(l.s.agent, "UpdateRoutes") > routes
	})
	_ = exec.Command("ip", "link", "del", far).Run()
	until(func() bool { return !hasTap(1) })
}
