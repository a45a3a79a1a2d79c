package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"shoal.dev/shoal/internal/network"
)

const (
	// applyTimeout bounds one application of the desired network.
	applyTimeout = time.Minute
	// applyAgain and applyAgainMax are the times between tries while it fails.
	applyAgain    = 100 * time.Millisecond
	applyAgainMax = 10 * time.Second
)

// applier brings the kernel to the newest desired network, one application at a time.
type applier struct {
	net  Network
	wake chan struct{} // capacity 1

	mu      sync.Mutex
	want    network.Desired
	dirty   bool // want holds something that was not applied
	state   netState
	changed chan struct{} // closed when state changes
	told    chan struct{} // has a value when the kernel was changed and the manager does not know yet; capacity 1
}

// netState is how far the kernel is.
type netState struct {
	applied uint64 // the version that the kernel holds
	err     error  // why the newest is not applied
}

func newApplier(n Network) applier {
	return applier{net: n, wake: make(chan struct{}, 1), changed: make(chan struct{}), told: make(chan struct{}, 1)}
}

// set says what is wanted now. If it only has a newer version, the kernel need not be touched. With anew, versions
// begin again.
func (n *applier) set(d network.Desired, changed, anew bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.want = d
	n.dirty = n.dirty || changed
	if anew {
		n.state.applied = 0
	}
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// get returns the state and a channel that is closed when there is another.
func (n *applier) get() (netState, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state, n.changed
}

func (n *applier) run(ctx context.Context, log *slog.Logger) error {
	again := applyAgain
	var retry <-chan time.Time
	for {
		select {
		case <-n.wake:
		case <-retry:
		case <-ctx.Done():
			return nil
		}
		n.mu.Lock()
		d, dirty := n.want, n.dirty
		n.dirty = false
		n.mu.Unlock()
		var err error
		if dirty {
			err = n.apply(ctx, d)
		}
		if ctx.Err() != nil {
			return nil
		}
		retry = nil
		n.mu.Lock()
		before := n.state
		n.state.err = err
		if err == nil {
			n.state.applied = d.Version
		} else {
			n.dirty = true
		}
		if n.state.applied != before.applied || err != nil || before.err != nil {
			close(n.changed)
			n.changed = make(chan struct{})
		}
		n.mu.Unlock()
		if err == nil {
			if dirty {
				select {
				case n.told <- struct{}{}:
				default:
				}
			}
			again = applyAgain
			continue
		}
		log.Error("the network cannot be brought to what is desired", "version", d.Version, "error", err, "again", again)
		retry = time.After(again)
		again = min(2*again, applyAgainMax)
	}
}

func (n *applier) apply(ctx context.Context, d network.Desired) error {
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	return n.net.Apply(ctx, d)
}
