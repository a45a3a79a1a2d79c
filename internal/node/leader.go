package node

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/containerd/errdefs"

	"shoal.dev/shoal/internal/consensus"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/link"
)

const (
	// leaderPoll is how often a request that waits for its answer looks whether the one that it was sent to still leads.
	leaderPoll = 50 * time.Millisecond
	// leaderGrace is for how long it waits once that one leads no more: a leader that hands over answers what it has begun.
	leaderGrace = 100 * time.Millisecond
	// handOverTimeout bounds the handing over of leadership by a daemon that is told to end. Without it the others need an
	// election time-out.
	handOverTimeout = 2 * time.Second
)

// errDeposed ends what waits for a manager that leads no more.
var errDeposed = errors.New("the manager leads no more")

// leaderTransport sends requests to whoever leads when they are made. A leader that dies in between answers nothing and its
// connection may look sound for seconds, so a request waits only as long as this manager takes that one for the leader.
type leaderTransport struct{ m *manager }

func (t leaderTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	id, l, err := t.m.toLeader(r.Context())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	stop := t.m.whileLeads(ctx, id, cancel)
	resp, err := l.RoundTrip(r.WithContext(ctx))
	stop()
	if err != nil {
		deposed := context.Cause(ctx) == errDeposed
		cancel(nil)
		if deposed {
			return nil, errdefs.ErrUnavailable.WithMessage(consensus.ErrUnknownOutcome.Error())
		}
		return nil, err
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		context.AfterFunc(r.Context(), func() { cancel(nil) }) // its body must stay one that can be written to
		return resp, nil
	}
	resp.Body = &lastRead{resp.Body, cancel}
	return resp, nil
}

// lastRead frees what belongs to a request once its answer is read.
type lastRead struct {
	io.ReadCloser
	free context.CancelCauseFunc
}

func (b *lastRead) Close() error {
	defer b.free(nil)
	return b.ReadCloser.Close()
}

// toLeader returns a link to the manager that leads. Nothing is sent before there is one, so it waits for the next leader
// where the last one cannot be reached.
func (m *manager) toLeader(ctx context.Context) (string, *link.Link, error) {
	within, cancel := context.WithTimeout(ctx, leaderWait)
	defer cancel()
	for {
		id, addr, ok := m.cons.Leader()
		if !ok {
			return "", nil, errdefs.ErrUnavailable.WithMessage(control.NoLeader)
		}
		dial, abandon := context.WithCancelCause(within)
		stop := m.whileLeads(dial, id, abandon)
		l, err := m.peers.to(dial, addr)
		stop()
		abandon(nil)
		if err == nil {
			return id, l, nil
		}
		select {
		case <-time.After(leaderPoll):
		case <-within.Done():
		}
		if within.Err() != nil || !m.waitLeader(within, leaderWait) {
			return "", nil, errdefs.ErrUnavailable.WithMessage("the swarm's leader at " + addr + " cannot be reached: " + err.Error())
		}
	}
}

// whileLeads calls end with errDeposed when the manager leads no more, until ctx ends or stop is called.
func (m *manager) whileLeads(ctx context.Context, id string, end context.CancelCauseFunc) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	// Most requests are over before the first look.
	first := time.AfterFunc(leaderPoll, func() {
		tick := time.NewTicker(leaderPoll)
		defer tick.Stop()
		var since time.Time
		for {
			now := time.Now()
			if leader, _, _ := m.cons.Leader(); leader == id {
				since = time.Time{}
			} else if since.IsZero() {
				since = now
			} else if now.Sub(since) >= leaderGrace {
				end(errDeposed)
				return
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		first.Stop()
		cancel()
	}
}

// handOver gives leadership to another manager before this one ends, so that the swarm needs no election time-out.
func (m *manager) handOver(ctx context.Context) {
	if servers, err := m.cons.Servers(); err != nil || len(servers) < 2 || !m.cons.IsLeader() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, handOverTimeout)
	defer cancel()
	if err := m.cons.Transfer(ctx); err != nil {
		m.log.Warn("handing over before the end", "node", m.st.NodeID, "error", err)
	}
}
