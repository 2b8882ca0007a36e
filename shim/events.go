package shim

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/containerd/containerd/api/events"
	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/protobuf"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kata-cc/kata-cc/sandbox"
)

// publish translates what happens in the sandbox by itself.
func (s *Service) publish(e sandbox.Event) {
	switch e := e.(type) {
	case sandbox.Started:
		if e.Exec != "" {
			s.events.send(&events.TaskExecStarted{ContainerID: e.Container, ExecID: e.Exec, Pid: s.pid()})
			return
		}
		s.events.send(&events.TaskStart{ContainerID: e.Container, Pid: s.pid()})
	case sandbox.Exited:
		id := e.Exec
		if id == "" {
			id = e.Container
		}
		s.events.send(&events.TaskExit{
			ContainerID: e.Container, ID: id, Pid: s.pid(),
			ExitStatus: e.Exit.Status, ExitedAt: protobuf.ToTimestamp(e.Exit.At),
		})
	case sandbox.OutOfMemory:
		s.events.send(&events.TaskOOM{ContainerID: e.Container})
	}
}

// topic is where subscribers look for an event.
func topic(event proto.Message) string {
	switch event.(type) {
	case *events.TaskCreate:
		return "/tasks/create"
	case *events.TaskStart:
		return "/tasks/start"
	case *events.TaskOOM:
		return "/tasks/oom"
	case *events.TaskExit:
		return "/tasks/exit"
	case *events.TaskDelete:
		return "/tasks/delete"
	case *events.TaskExecAdded:
		return "/tasks/exec-added"
	case *events.TaskExecStarted:
		return "/tasks/exec-started"
	case *events.TaskPaused:
		return "/tasks/paused"
	case *events.TaskResumed:
		return "/tasks/resumed"
	}
	return "/tasks/unknown"
}

// maxQueue is how many events wait for containerd at most. A pod makes about
// five for each process, so this is more than a night of probes.
const maxQueue = 100_000

// maxRefusals is how often containerd may refuse an event, other than by not
// being there, before it is dropped.
const maxRefusals = 5

// queue hands events to containerd one by one, in order, each again and again
// until it is taken: containerd may be restarted at any time.
type queue struct {
	namespace string
	address   string        // empty: nobody listens
	client    *ttrpc.Client // nil: not connected; of the goroutine in run
	log       *log.Entry

	mu      sync.Mutex
	waiting []*types.Envelope
	more    chan struct{} // has room for one: there is something to do
	closing chan struct{} // closed: nothing more is entered
	given   chan struct{} // closed: what was not taken yet is given up
	done    chan struct{}
}

func newQueue(ctx context.Context, namespace, address string) *queue {
	q := &queue{
		namespace: namespace, address: address, log: log.G(ctx),
		more: make(chan struct{}, 1), closing: make(chan struct{}), given: make(chan struct{}), done: make(chan struct{}),
	}
	if address == "" {
		close(q.done)
		return q
	}
	go q.run(context.WithoutCancel(ctx))
	return q
}

// send enters an event. It never blocks.
func (q *queue) send(event proto.Message) {
	where := topic(event)
	if q.address == "" {
		q.log.WithField("topic", where).Debug("event is not sent: no address")
		return
	}
	content, err := protobuf.MarshalAnyToProto(event)
	if err != nil {
		q.log.WithError(err).WithField("topic", where).Error("event is lost")
		return
	}
	q.mu.Lock()
	full := len(q.waiting) >= maxQueue
	if !full {
		q.waiting = append(q.waiting, &types.Envelope{
			Timestamp: protobuf.ToTimestamp(time.Now()), Namespace: q.namespace, Topic: where, Event: content,
		})
	}
	q.mu.Unlock()
	if full {
		q.log.WithField("topic", where).Error("event is lost: too many wait for containerd")
		return
	}
	select {
	case q.more <- struct{}{}:
	default:
	}
}

// close waits until every event is taken, for flushTimeout at most, and ends the
// queue. It may be called again.
func (q *queue) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	q.mu.Lock()
	select {
	case <-q.closing:
	default:
		close(q.closing)
	}
	q.mu.Unlock()
	select {
	case <-q.done:
		return
	case <-ctx.Done():
	}
	q.log.Warn("some events were not taken")
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case <-q.given:
	default:
		close(q.given)
	}
}

func (q *queue) run(ctx context.Context) {
	defer close(q.done)
	defer q.hangUp()
	for {
		q.mu.Lock()
		var next *types.Envelope
		if len(q.waiting) > 0 {
			next = q.waiting[0]
		}
		q.mu.Unlock()
		if next == nil {
			select {
			case <-q.more:
				continue
			case <-q.closing:
				select {
				case <-q.more:
					continue
				default:
					return
				}
			}
		}
		if !q.deliver(ctx, next) {
			return
		}
		q.mu.Lock()
		q.waiting[0] = nil
		q.waiting = q.waiting[1:]
		q.mu.Unlock()
	}
}

// deliver returns when the event was taken or is hopeless, or with false when
// the queue was given up before.
func (q *queue) deliver(ctx context.Context, e *types.Envelope) bool {
	pause, refusals := retryMin, 0
	for {
		err := q.forward(ctx, e)
		if err == nil {
			return true
		}
		if refused(err) {
			if refusals++; refusals == maxRefusals {
				q.log.WithError(err).WithField("topic", e.Topic).Error("event is lost: containerd refuses it")
				return true
			}
		}
		q.log.WithError(err).WithField("topic", e.Topic).Debug("event was not taken")
		closing := q.closing
		if pause == retryMin { // the shim is ending: there is no time for longer ones
			closing = nil
		}
		select {
		case <-q.given:
			return false
		case <-closing:
			pause = retryMin
		case <-time.After(pause):
			pause = q.longer(pause)
		}
	}
}

// longer is the pause after the next attempt that fails.
func (q *queue) longer(pause time.Duration) time.Duration {
	select {
	case <-q.closing:
		return retryMin
	default:
		return min(2*pause, retryMax)
	}
}

// refused reports whether containerd was there and said no.
func refused(err error) bool {
	s, ok := status.FromError(err)
	if !ok || errors.Is(err, ttrpc.ErrClosed) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	return s.Code() != codes.Unavailable && s.Code() != codes.DeadlineExceeded && s.Code() != codes.Canceled
}

// forward makes one attempt, on the connection of the last one if that is still
// good. Only run calls it.
func (q *queue) forward(ctx context.Context, e *types.Envelope) error {
	ctx, cancel := context.WithTimeout(ctx, forwardTimeout)
	defer cancel()
	if q.client == nil {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", q.address)
		if err != nil {
			return err
		}
		q.client = ttrpc.NewClient(conn)
	}
	_, err := eventsapi.NewEventsClient(q.client).Forward(ctx, &eventsapi.ForwardRequest{Envelope: e})
	if err != nil && !refused(err) {
		q.hangUp()
	}
	return err
}

func (q *queue) hangUp() {
	if q.client != nil {
		_ = q.client.Close() // it is of no more use, whatever it says
		q.client = nil
	}
}
