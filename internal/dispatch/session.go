package dispatch

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/dispatch/protocol"
	"shoal.dev/shoal/internal/link"
	"shoal.dev/shoal/internal/store"
)

const (
	// catchUp bounds how long a session waits for this manager to know what the agent has seen already. A manager that
	// needs longer is cut off; the agent finds another.
	catchUp = 5 * time.Second
	// memberWait bounds how long a session waits for the record of a node that has just joined.
	memberWait = 2 * time.Second
	// writeTimeout bounds the writing of one frame: an agent that takes none for so long is gone.
	writeTimeout = 30 * time.Second
	// silent is the number of heartbeat periods without a sign of life after which a session is given up.
	silent = 10
)

var (
	errStops    = errors.New("this manager stops")
	errReset    = errors.New("this manager's state was replaced")
	errRemoved  = errors.New("the node was removed from the swarm")
	errReplaced = errors.New("the node has a newer session")
	errSilent   = errors.New("the node was not heard for a long time")
)

// session is one agent's stream of frames. The fields below dirty belong to its goroutine.
type session struct {
	node  string
	wake  chan struct{} // capacity 1
	end   context.CancelCauseFunc
	dirty map[string]struct{} // tasks that may have changed; guarded by Server.mu

	sent     map[string]uint64 // version of each task as it was sent
	files    files
	mesh     mesh
	overlays map[string]uint64 // serial of each network as it was sent
	managers []swarm.Peer
	period   time.Duration
}

// mark lets the session look at a task again. Server.mu is held.
func (ss *session) mark(taskID string) {
	if ss.dirty == nil {
		ss.dirty = map[string]struct{}{}
	}
	ss.dirty[taskID] = struct{}{}
	ss.poke()
}

func (ss *session) poke() {
	select {
	case ss.wake <- struct{}{}:
	default:
	}
}

func (s *Server) serveSession(w http.ResponseWriter, r *http.Request) {
	peer, ok := link.PeerFrom(r.Context())
	if !ok {
		refuse(w, http.StatusForbidden, errNoPeer)
		return
	}
	var req protocol.SessionRequest
	if err := protocol.Decode(w, r, &req); err != nil {
		refuse(w, http.StatusBadRequest, fmt.Errorf("reading a session request: %w", err))
		return
	}
	if code, err := s.admit(r.Context(), peer.NodeID, req.Epoch, req.Version); err != nil {
		refuse(w, code, err)
		return
	}
	ctx, end := context.WithCancelCause(r.Context())
	ss := &session{node: peer.NodeID, wake: make(chan struct{}, 1), end: end, sent: map[string]uint64{}}
	v := s.begin(ss)
	log := s.log.With("node", ss.node)
	log.Debug("agent session began", "version", v.version)
	s.heard(ss.node, nil, true)
	go s.describe(ctx, ss.node, &protocol.Facts{Description: req.Description, Addr: req.Addr})

	err := s.stream(ctx, w, ss, v)
	end(err)
	log.Debug("agent session ended", "reason", err)
	s.finish(ss)
}

// admit waits until this manager knows what the agent has seen and that the node is a member.
func (s *Server) admit(ctx context.Context, node string, epoch, version uint64) (int, error) {
	wait, cancel := context.WithTimeout(ctx, catchUp)
	defer cancel()
	if err := s.waitView(wait, 0); err != nil {
		return http.StatusServiceUnavailable, errors.New("this manager is starting")
	}
	// A version counts within its epoch only.
	have := epochOf(s.cfg.Store.Snapshot())
	switch {
	case have < epoch:
		return http.StatusServiceUnavailable, fmt.Errorf("this manager is of epoch %d of the swarm, the node has seen epoch %d", have, epoch)
	case have == epoch:
		if err := s.waitView(wait, version); err != nil {
			return http.StatusServiceUnavailable, fmt.Errorf("this manager is behind what the node has seen: %w", err)
		}
	}
	member, cancel := context.WithTimeout(ctx, memberWait)
	defer cancel()
	for {
		snap := s.cfg.Store.Snapshot()
		if _, ok := store.Get[*cluster.Node](snap, node); ok {
			// What is sent comes from the view, which may still be that of before the swarm was made.
			if err := s.waitView(wait, snap.Index()); err != nil {
				return http.StatusServiceUnavailable, fmt.Errorf("this manager is busy: %w", err)
			}
			return 0, nil
		}
		if err := s.cfg.Store.WaitIndex(member, snap.Index()+1); err != nil {
			return http.StatusForbidden, fmt.Errorf("node %s is not part of the swarm", node)
		}
	}
}

func epochOf(snap *store.Snapshot) uint64 {
	if sw := snap.Swarm(); sw != nil {
		return sw.Epoch
	}
	return 0
}

// begin makes ss the node's session and returns the view that it starts from, which has everything that is not marked
// dirty later.
func (s *Server) begin(ss *session) *view {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.sessions[ss.node]; old != nil {
		old.end(errReplaced)
	}
	s.sessions[ss.node] = ss
	return s.view
}

func (s *Server) finish(ss *session) {
	s.mu.Lock()
	last := s.sessions[ss.node] == ss
	if last {
		delete(s.sessions, ss.node)
	}
	s.mu.Unlock()
	if last {
		s.live.reportNow()
		s.cfg.Notify(ss.node)
	}
}

func (s *Server) endSessions(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ss := range s.sessions {
		ss.end(why)
	}
}

// stream sends frames until the session ends, and says why it did.
func (s *Server) stream(ctx context.Context, w http.ResponseWriter, ss *session, v *view) error {
	w.Header().Set("Content-Type", "application/cbor-seq")
	f, err := ss.complete(v)
	if err != nil {
		return err
	}
	if err := s.send(w, f); err != nil {
		return err
	}
	alive := time.NewTimer(ss.period / 2)
	defer alive.Stop()
	for {
		idle := false
		select {
		case <-ss.wake:
		case <-alive.C:
			idle = true
			if age, ok := s.live.age(ss.node); ok && age > silent*ss.period {
				return errSilent
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		s.mu.Lock()
		v, dirty := s.view, ss.dirty
		ss.dirty = nil // it is this goroutine's now
		s.mu.Unlock()
		f, changed, err := ss.next(v, dirty)
		if err != nil {
			return err
		}
		if !changed && !idle {
			continue
		}
		if err := s.send(w, f); err != nil {
			return err
		}
		alive.Reset(ss.period / 2)
	}
}

// complete is the first frame.
func (ss *session) complete(v *view) (*protocol.Frame, error) {
	ss.mesh, ss.managers, ss.period = v.mesh, v.managers, v.period
	m, err := v.mesh.all()
	if err != nil {
		return nil, err
	}
	f := &protocol.Frame{
		Complete: true, Epoch: v.epoch, Version: v.version,
		HeartbeatPeriod: v.period, Managers: v.managers, Mesh: m,
	}
	for t := range v.snap.TasksByNode(ss.node) {
		if !assigned(t) {
			continue
		}
		f.Tasks = append(f.Tasks, t)
		ss.sent[t.ID] = t.Version.Index
		ss.files.set(v.snap, t.ID, t)
	}
	var more bool
	if f.Files, _, more = ss.files.take(v.snap); more {
		ss.poke()
	}
	return f, ss.sendOverlays(v, f)
}

// assigned says whether a task is the business of its node.
func assigned(t *cluster.Task) bool { return !cluster.Before(t.Status.State, swarm.TaskStateAssigned) }

// next is what changed for the node up to v.
func (ss *session) next(v *view, dirty map[string]struct{}) (*protocol.Frame, bool, error) {
	f := &protocol.Frame{Epoch: v.epoch, Version: v.version}
	for id := range dirty {
		t, ok := store.Get[*cluster.Task](v.snap, id)
		had, sent := ss.sent[id]
		if ok && t.NodeID == ss.node && assigned(t) {
			ss.files.set(v.snap, id, t)
		} else {
			ss.files.set(v.snap, id, nil)
		}
		switch {
		case ok && t.NodeID == ss.node && assigned(t):
			if !sent || had != t.Version.Index {
				f.Tasks = append(f.Tasks, t)
				ss.sent[id] = t.Version.Index
			}
		case sent:
			f.Removed = append(f.Removed, id)
			delete(ss.sent, id)
		}
	}
	slices.SortFunc(f.Tasks, func(a, b *cluster.Task) int { return strings.Compare(a.ID, b.ID) })
	slices.Sort(f.Removed)
	var more bool
	if f.Files, f.DroppedFiles, more = ss.files.take(v.snap); more {
		ss.poke()
	}
	var err error
	if f.Mesh, err = v.mesh.since(ss.mesh); err != nil {
		return nil, false, err
	}
	ss.mesh = v.mesh
	if err := ss.sendOverlays(v, f); err != nil {
		return nil, false, err
	}
	if v.period != ss.period {
		f.HeartbeatPeriod, ss.period = v.period, v.period
	}
	if !slices.Equal(v.managers, ss.managers) {
		f.Managers, ss.managers = v.managers, v.managers
	}
	changed := len(f.Tasks)+len(f.Removed)+len(f.Overlays)+len(f.OverlaysGone)+len(f.Files)+len(f.DroppedFiles) > 0 || f.Mesh != nil || f.HeartbeatPeriod != 0 || f.Managers != nil
	return f, changed, nil
}

func (s *Server) send(w http.ResponseWriter, f *protocol.Frame) error {
	f.Now = s.cfg.Store.Now()
	c := http.NewResponseController(w)
	if err := c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if err := protocol.Write(w, f); err != nil {
		return err
	}
	return c.Flush()
}

var errNoPeer = errors.New("the request did not come over a link of the swarm")

func refuse(w http.ResponseWriter, code int, err error) { http.Error(w, err.Error(), code) }
