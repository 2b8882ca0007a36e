package shim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

// collector takes events as containerd does.
type collector struct {
	mu     sync.Mutex
	topics []string
	refuse func(topic string) error
}

func (c *collector) Forward(_ context.Context, r *eventsapi.ForwardRequest) (*emptypb.Empty, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refuse != nil {
		if err := c.refuse(r.Envelope.Topic); err != nil {
			return nil, err
		}
	}
	c.topics = append(c.topics, r.Envelope.Topic)
	return &emptypb.Empty{}, nil
}

func (c *collector) list() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.topics)
}

func serveEvents(t *testing.T, c *collector, socket string) *ttrpc.Server {
	t.Helper()
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	eventsapi.RegisterEventsService(server, c)
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(context.Background(), l)
	t.Cleanup(func() { server.Close() })
	return server
}

func TestEventsKeepTheirOrder(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	c := &collector{}
	server := serveEvents(t, c, socket)
	q := newQueue(t.Context(), "n", socket)
	q.send(&events.TaskCreate{})
	for len(c.list()) == 0 {
		time.Sleep(time.Millisecond)
	}
	server.Close() // containerd is restarted
	q.send(&events.TaskStart{})
	q.send(&events.TaskExit{})
	serveEvents(t, c, socket)
	q.send(&events.TaskDelete{})
	q.close(t.Context())
	// One whose answer was lost with the connection comes twice.
	if got, want := slices.Compact(c.list()), []string{"/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"}; !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
}

func TestEventThatIsRefusedDoesNotHoldUpTheOthers(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	c := &collector{refuse: func(topic string) error {
		if topic == "/tasks/oom" {
			return errors.New("no")
		}
		return nil
	}}
	serveEvents(t, c, socket)
	q := newQueue(t.Context(), "n", socket)
	q.send(&events.TaskOOM{})
	q.send(&events.TaskExit{})
	for len(c.list()) == 0 {
		time.Sleep(time.Millisecond)
	}
	q.close(t.Context())
}

func TestQueueEndsWithoutContainerd(t *testing.T) {
	q := newQueue(t.Context(), "n", filepath.Join(t.TempDir(), "nobody"))
	q.send(&events.TaskExit{})
	q.close(t.Context())
	q.close(t.Context()) // again
	none := newQueue(t.Context(), "n", "")
	none.send(&events.TaskExit{})
	none.close(t.Context())
}

func TestEveryEventHasATopic(t *testing.T) {
	seen := map[string]bool{}
	for _, e := range []proto.Message{
		&events.TaskCreate{}, &events.TaskStart{}, &events.TaskOOM{}, &events.TaskExit{}, &events.TaskDelete{},
		&events.TaskExecAdded{}, &events.TaskExecStarted{}, &events.TaskPaused{}, &events.TaskResumed{},
	} {
		got := topic(e)
		if got == "/tasks/unknown" || seen[got] {
			t.Errorf("topic of %s is %s", fmt.Sprintf("%T", e), got)
		}
		seen[got] = true
	}
}
