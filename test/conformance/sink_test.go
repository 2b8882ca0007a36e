package conformance

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"

	"github.com/containerd/containerd/api/events"
	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/emptypb"
)

// sink takes the events, as containerd does.
type sink struct {
	t      testing.TB
	server *ttrpc.Server

	mu     sync.Mutex
	events []event
	refuse int // how many events are refused from now on
}

type event struct {
	topic   string
	content proto.Message
}

// String names an event and what it is about.
func (e event) String() string {
	switch c := e.content.(type) {
	case *events.TaskCreate:
		return "create " + c.ContainerID
	case *events.TaskStart:
		return "start " + c.ContainerID
	case *events.TaskExecAdded:
		return "exec-added " + c.ContainerID + " " + c.ExecID
	case *events.TaskExecStarted:
		return "exec-started " + c.ContainerID + " " + c.ExecID
	case *events.TaskExit:
		return fmt.Sprintf("exit %s %s %d", c.ContainerID, c.ID, c.ExitStatus)
	case *events.TaskOOM:
		return "oom " + c.ContainerID
	case *events.TaskDelete:
		return fmt.Sprintf("delete %s %d", c.ContainerID, c.ExitStatus)
	case *events.TaskPaused:
		return "paused " + c.ContainerID
	case *events.TaskResumed:
		return "resumed " + c.ContainerID
	}
	return e.topic
}

func newSink(t testing.TB, socket string) *sink {
	t.Helper()
	s := &sink{t: t}
	s.listen(socket)
	return s
}

func (s *sink) listen(socket string) {
	s.t.Helper()
	server, err := ttrpc.NewServer()
	if err != nil {
		s.t.Fatal(err)
	}
	eventsapi.RegisterEventsService(server, s)
	l, err := net.Listen("unix", socket)
	if err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	s.server = server
	s.mu.Unlock()
	go server.Serve(context.Background(), l)
}

func (s *sink) close() { s.server.Close() }

// Forward implements containerd's service.
func (s *sink) Forward(_ context.Context, r *eventsapi.ForwardRequest) (*emptypb.Empty, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse > 0 {
		s.refuse--
		return nil, fmt.Errorf("not now")
	}
	if r.Envelope.Namespace != namespace {
		s.t.Errorf("event %s has namespace %q", r.Envelope.Topic, r.Envelope.Namespace)
	}
	kind, err := protoregistry.GlobalTypes.FindMessageByURL(r.Envelope.Event.TypeUrl)
	if err != nil {
		s.t.Errorf("event %s: %v", r.Envelope.Topic, err)
		return &emptypb.Empty{}, nil
	}
	content := kind.New().Interface()
	if err := proto.Unmarshal(r.Envelope.Event.Value, content); err != nil {
		s.t.Errorf("event %s: %v", r.Envelope.Topic, err)
	}
	s.events = append(s.events, event{r.Envelope.Topic, content})
	return &emptypb.Empty{}, nil
}

// list gives the events so far as text.
func (s *sink) list() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for _, e := range s.events {
		all = append(all, e.String())
	}
	return all
}

// wantEvents waits for the events to be exactly these, in this order.
func (h *host) wantEvents(want ...string) {
	h.t.Helper()
	h.eventually(fmt.Sprintf("%d events", len(want)), func() bool { return len(h.sink.list()) >= len(want) })
	if got := h.sink.list(); !slices.Equal(got, want) {
		h.t.Fatalf("events\n got %q\nwant %q", got, want)
	}
}

// wantEvent waits for an event.
func (h *host) wantEvent(want string) {
	h.t.Helper()
	h.eventually("event "+want, func() bool { return slices.Contains(h.sink.list(), want) })
}
