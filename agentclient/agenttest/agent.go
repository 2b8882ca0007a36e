// Package agenttest is an agent without a guest: it speaks the agent's protocol
// on real sockets, runs scripted processes, records every call, and fails where
// it is told to. Its flavours differ where real agents do: in how output ends,
// in exit statuses and in the texts of errors.
package agenttest

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kata-cc/kata-cc/agentclient/agentpb"
)

// AgentPort is the vsock port of the agent.
const AgentPort = 1024

// Flavour is the line of agents that an Agent imitates.
type Flavour string

// The flavours.
const (
	Ours     Flavour = "ours"
	Azl1     Flavour = "azl1" // 3.2.0.azl1
	Azl5     Flavour = "azl5" // 3.2.0.azl5
	Upstream Flavour = "4.1"
)

// Script is what a process does.
type Script struct {
	Stdout string        `json:"stdout"`
	Stderr string        `json:"stderr"`
	Exit   int32         `json:"exit"`
	Block  bool          `json:"block"`  // run until a signal ends it
	Echo   bool          `json:"echo"`   // copy standard input to standard output until it is closed
	After  time.Duration `json:"after"`  // run at least this long
	Ignore []uint32      `json:"ignore"` // signals without effect
	// Hold keeps the output open after the exit, as a child that outlives its
	// parent does.
	Hold bool `json:"hold"`
	// LastWords is what a container leaves in its termination log.
	LastWords string `json:"last_words"`
	// Missing makes the start fail: the container has no such program.
	Missing bool `json:"missing"`
}

// Call is one call that the agent received.
type Call struct {
	RPC     string
	Request proto.Message
	Limit   time.Duration // what the caller allows for it; 0: no limit
}

// File is what CopyFile made.
type File struct {
	Mode     uint32 // st_mode with type bits
	UID, GID int32
	Data     []byte // target, for a symbolic link
}

// Agent is a scripted agent. It is safe for concurrent use.
type Agent struct {
	flavour Flavour
	wire    *wire

	mu         sync.Mutex
	calls      []Call
	faults     []*fault
	answers    map[string]func(context.Context, proto.Message) (proto.Message, error)
	scripts    map[string]Script
	sandbox    *agentpb.CreateSandboxRequest
	destroyed  bool
	containers map[string]*container
	files      map[string]File
	partial    map[string][]byte
	denyRead   bool
	oom        chan string
	gone       chan struct{} // closed by DestroySandbox and Die
}

// New makes an agent that nobody can reach yet.
func New(f Flavour) *Agent {
	a := &Agent{
		flavour: f, scripts: map[string]Script{}, answers: map[string]func(context.Context, proto.Message) (proto.Message, error){}, containers: map[string]*container{}, files: map[string]File{},
		partial: map[string][]byte{}, oom: make(chan string, 16), gone: make(chan struct{}),
	}
	a.wire = newWire(a)
	return a
}

// Start makes an agent that ends with the test.
func Start(t testing.TB, f Flavour) *Agent {
	a := New(f)
	t.Cleanup(a.Close)
	return a
}

// Close ends the agent: processes, connections and listeners.
func (a *Agent) Close() {
	a.mu.Lock()
	for _, c := range a.containers {
		c.kill()
	}
	a.mu.Unlock()
	a.wire.close()
}

// Die ends the agent as if its machine had died.
func (a *Agent) Die() { a.Close() }

// ListenHybrid serves hybrid vsock on a unix socket: a client writes "CONNECT
// <port>\n" and reads "OK <port>\n" before the connection is the port's.
func (a *Agent) ListenHybrid(path string) error { return a.wire.listen(path, a.wire.handshake) }

// ListenPlain serves the agent's protocol on a unix socket without a handshake.
func (a *Agent) ListenPlain(path string) error { return a.wire.listen(path, a.wire.deliver) }

// Serve serves the agent's protocol on a connection that exists already.
func (a *Agent) Serve(conn net.Conn) { a.wire.deliver(conn) }

// HandlePort gives connections to another port than the agent's to serve, which
// owns them. A port without a handler refuses.
func (a *Agent) HandlePort(port uint32, serve func(net.Conn)) {
	a.wire.mu.Lock()
	defer a.wire.mu.Unlock()
	a.wire.ports[port] = serve
}

// Script sets what processes with these arguments do. Without a script "sleep"
// and "pause" block, "cat" echoes, "echo" prints its arguments, "false" exits
// with 1 and all else with 0 at once.
func (a *Agent) Script(args []string, s Script) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.scripts[strings.Join(args, "\x00")] = s
}

// DenyRead makes the policy hide all output.
func (a *Agent) DenyRead() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.denyRead = true
}

// OOM makes GetOOMEvent tell of a container.
func (a *Agent) OOM(container string) { a.oom <- container }

// Calls returns the calls so far, in order, less those of the given RPCs.
func (a *Agent) Calls(but ...string) []Call {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(a.calls), func(c Call) bool { return slices.Contains(but, c.RPC) })
}

// Names is Calls without the requests.
func (a *Agent) Names(but ...string) []string {
	var names []string
	for _, c := range a.Calls(but...) {
		names = append(names, c.RPC)
	}
	return names
}

// Files returns what CopyFile has completed, by guest path.
func (a *Agent) Files() map[string]File {
	a.mu.Lock()
	defer a.mu.Unlock()
	files := make(map[string]File, len(a.files))
	for path, f := range a.files {
		files[path] = f
	}
	return files
}

// Containers lists the ids of the containers that exist, sorted.
func (a *Agent) Containers() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var ids []string
	for id := range a.containers {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// Finish ends a process that blocks, with an exit status. It reports whether
// there was one.
func (a *Agent) Finish(container, exec string, status int32) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.containers[container]; c != nil {
		if p := c.process(exec); p != nil {
			return p.exit(status)
		}
	}
	return false
}

func (a *Agent) scriptFor(args []string) Script {
	if s, ok := a.scripts[strings.Join(args, "\x00")]; ok {
		return s
	}
	switch name := args[0][strings.LastIndex(args[0], "/")+1:]; name {
	case "sleep", "pause", "tail":
		return Script{Block: true}
	case "cat":
		return Script{Echo: true}
	case "echo":
		return Script{Stdout: strings.Join(args[1:], " ") + "\n"}
	case "false":
		return Script{Exit: 1}
	}
	return Script{}
}
