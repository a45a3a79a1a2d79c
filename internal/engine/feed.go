package engine

import (
	"context"
	"time"
)

// KeptEvents is how many events of the past are kept: as many as Docker keeps (moby's daemon/events, eventsLimit).
const KeptEvents = 256

// MaxBehind is how many events a reader may be behind before it is cut off. Docker drops what a reader does not take
// within 100 ms once 1024 wait for it (moby's daemon/events, bufferSize): there a loss is not seen.
const MaxBehind = 8192

// Feed is what happened on this host, in order. It begins anew with the daemon.
type Feed interface {
	// Events delivers what happens from now on, in order and without gaps, until ctx ends; then the channel is closed.
	// A reader that is more than [MaxBehind] events behind is cut off: its channel is closed, though ctx goes on.
	Events(ctx context.Context) <-chan Event
	// Recall is Events, and returns what is kept of what happened since a time, oldest first: nothing is twice in both
	// and nothing is missing between them. The zero time is all that is kept, at most [KeptEvents].
	Recall(ctx context.Context, since time.Time) (past []Event, live <-chan Event)
	// Announce adds what happened elsewhere: in the swarm, to the daemon. The event's time is set.
	Announce(Event)
}

// Event is something that happened to an object. Type and Action are those of package events of the Engine API.
type Event struct {
	Type       string
	Action     string
	ID         string
	Attributes map[string]string // name, image, exitCode, signal, and the container's labels
	Scope      string            // "swarm", or "" for this host's
	Time       time.Time         // of this host's clock; never before that of the event before
}
