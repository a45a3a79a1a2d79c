package agent

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/dispatch/protocol"
)

const (
	// statusTimeout bounds one request with statuses; a manager answers when they are in the swarm's log.
	statusTimeout = 10 * time.Second
	// statusAgain and statusAgainMax are the times between tries while no manager takes them.
	statusAgain    = 100 * time.Millisecond
	statusAgainMax = 2 * time.Second
)

// outbox holds the newest status of each task until a manager has taken it.
type outbox struct {
	wake chan struct{} // capacity 1

	mu      sync.Mutex
	pending map[string]pendingStatus
	serial  uint64
}

type pendingStatus struct {
	status swarm.TaskStatus
	serial uint64 // tells it from a later one of the same task
}

func newOutbox() outbox {
	return outbox{wake: make(chan struct{}, 1), pending: map[string]pendingStatus{}}
}

func (o *outbox) put(taskID string, s swarm.TaskStatus) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.serial++
	o.pending[taskID] = pendingStatus{s, o.serial}
	o.poke()
}

// drop forgets a task whose record is gone.
func (o *outbox) drop(taskID string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.pending, taskID)
}

func (o *outbox) poke() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// batch is what to send now, at most [protocol.MaxStatuses].
func (o *outbox) batch() map[string]pendingStatus {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := make(map[string]pendingStatus, min(len(o.pending), protocol.MaxStatuses))
	for id, p := range o.pending {
		if len(out) == protocol.MaxStatuses {
			break
		}
		out[id] = p
	}
	return out
}

// taken forgets what was sent, unless there is something newer.
func (o *outbox) taken(sent map[string]pendingStatus) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for id, p := range sent {
		if o.pending[id].serial == p.serial {
			delete(o.pending, id)
		}
	}
	if len(o.pending) > 0 {
		o.poke()
	}
}

// send delivers statuses over a session until ctx ends. One request is under way at a time: what changes meanwhile
// goes with the next, so that statuses never overtake each other.
func (o *outbox) send(ctx context.Context, rt http.RoundTripper, nodeID string, log *slog.Logger) {
	o.poke() // what an earlier session did not deliver
	again := statusAgain
	for {
		select {
		case <-o.wake:
		case <-ctx.Done():
			return
		}
		sent := o.batch()
		if len(sent) == 0 {
			continue
		}
		rep := protocol.NodeReport{NodeID: nodeID, Statuses: make([]protocol.TaskStatus, 0, len(sent))}
		for id, p := range sent {
			rep.Statuses = append(rep.Statuses, protocol.TaskStatus{TaskID: id, Status: p.status})
		}
		err := post(ctx, rt, statusTimeout, protocol.PathStatus, protocol.StatusRequest{Nodes: []protocol.NodeReport{rep}})
		switch {
		case err == nil:
			o.taken(sent)
			again = statusAgain
			continue
		case ctx.Err() != nil:
			return
		case protocol.Refused(err):
			// Sending it again changes nothing. The next session begins with what is true then.
			log.Error("a manager refuses statuses", "error", err, "tasks", len(sent))
			o.taken(sent)
			continue
		}
		log.Debug("statuses were not taken", "error", err, "tasks", len(sent), "again", again)
		select {
		case <-time.After(again):
		case <-ctx.Done():
			return
		}
		again = min(2*again, statusAgainMax)
		o.poke()
	}
}

func post(ctx context.Context, rt http.RoundTripper, timeout time.Duration, path string, msg any) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return protocol.Post(ctx, rt, path, msg)
}
