package dispatch

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/dispatch/protocol"
	"shoal.dev/shoal/internal/network"
	"shoal.dev/shoal/internal/store"
)

const (
	// minGap and maxGap bound the time between two views. The first change after a quiet time is never delayed; under
	// a flood the time between views is gapFactor times what a view costs, so that at most a third of one CPU goes
	// into making them.
	minGap    = 3 * time.Millisecond
	maxGap    = 500 * time.Millisecond
	gapFactor = 2
)

// view is what all sessions send from: one consistent state. It is immutable.
type view struct {
	snap     *store.Snapshot
	version  uint64 // up to which sessions were told what changed; snap has this or more
	epoch    uint64
	period   time.Duration
	managers []swarm.Peer
	mesh     mesh
	overlays overlays
	nets     uint64 // changes with the overlays
}

// mesh is the routing mesh, and how it differs from the one before. Equal serials are equal meshes.
type mesh struct {
	serial  uint64
	ingress *network.Ingress
	whole   func() ([]byte, error) // the encoded ingress, made once; nil for none
	delta   []byte                 // the encoded change from serial-1; nil if it is to be sent whole
}

// runViews makes a view of every change.
func (s *Server) runViews(ctx context.Context) error {
	w, snap := s.cfg.Store.Watch()
	defer w.Close()
	v, err := s.makeView(nil, snap, snap.Index(), true)
	if err != nil {
		return err
	}
	s.publish(v, nil)
	tick := time.NewTicker(time.Second) // the list of managers may change without a record
	defer tick.Stop()
	for {
		select {
		case <-w.Ready():
		case <-tick.C:
		case <-s.refresh:
		case <-ctx.Done():
			return nil
		}
		began := time.Now()
		// All events up to this index are queued, so that with them taken everything up to the version was seen. The
		// snapshot comes last: it has all that the events speak of. It may have more, which the next events tell again.
		version := s.cfg.Store.Index()
		events, last := w.Take()
		version = max(version, last)
		snap := s.cfg.Store.Snapshot()
		if slices.ContainsFunc(events, func(e store.Event) bool { return e.Reset }) {
			// Everything may be different, the version even lower: agents begin anew from a complete view.
			s.endSessions(errReset)
			if v, err = s.makeView(v, snap, last, true); err != nil {
				return err
			}
			s.publish(v, nil)
			continue
		}
		if v, err = s.makeView(v, snap, version, slices.ContainsFunc(events, meshChanges)); err != nil {
			return err
		}
		s.publish(v, events)
		if len(events) == 0 {
			continue
		}
		gap := min(max(minGap, gapFactor*time.Since(began)), maxGap)
		select {
		case <-time.After(gap):
		case <-ctx.Done():
			return nil
		}
	}
}

// makeView is the view of snap, of which all up to version was seen; old is the one before, or nil.
func (s *Server) makeView(old *view, snap *store.Snapshot, version uint64, derive bool) (*view, error) {
	v := &view{snap: snap, version: version, period: heartbeat(snap), managers: slices.Clone(s.cfg.Managers())}
	if sw := snap.Swarm(); sw != nil {
		v.epoch = sw.Epoch
	}
	slices.SortFunc(v.managers, func(a, b swarm.Peer) int {
		if a.NodeID != b.NodeID {
			return strings.Compare(a.NodeID, b.NodeID)
		}
		return strings.Compare(a.Addr, b.Addr)
	})
	if old != nil {
		v.mesh, v.overlays, v.nets = old.mesh, old.overlays, old.nets
	}
	if !derive {
		return v, nil
	}
	in := network.Input{
		Nodes:    slices.Collect(store.List[*cluster.Node](snap)),
		Services: slices.Collect(store.List[*cluster.Service](snap)),
		Tasks:    slices.Collect(snap.AttachedTasks()),
		Port:     s.cfg.DataPathPort,
	}
	in.Network, _ = snap.IngressNetwork()
	next, err := nextMesh(v.mesh, network.Derive(in))
	v.mesh = next
	if o := nextOverlays(v.overlays, network.DeriveOverlays(in, slices.Collect(store.List[*cluster.Network](snap))), v.nets+1); !maps.Equal(o, v.overlays) {
		v.overlays = o
		v.nets++
	}
	return v, err
}

// nextMesh returns old if in is no different.
func nextMesh(old mesh, in *network.Ingress) (mesh, error) {
	if old.serial != 0 && old.ingress == nil && in == nil {
		return old, nil
	}
	m := mesh{serial: old.serial + 1, ingress: in}
	var err error
	if old.ingress != nil && in != nil {
		d := network.Diff(old.ingress, in)
		if d == nil {
			return old, nil
		}
		if m.delta, err = store.Marshal(d); err != nil {
			return old, fmt.Errorf("encoding a change of the routing mesh: %w", err)
		}
	}
	if in != nil {
		m.whole = sync.OnceValues(func() ([]byte, error) { return store.Marshal(in) })
	}
	return m, nil
}

// all is the whole mesh.
func (m *mesh) all() (*protocol.Mesh, error) {
	if m.ingress == nil {
		return &protocol.Mesh{}, nil
	}
	b, err := m.whole()
	if err != nil {
		return nil, fmt.Errorf("encoding the routing mesh: %w", err)
	}
	return &protocol.Mesh{Ingress: b}, nil
}

// since says how the mesh differs from an earlier one, for an agent that has that.
func (m *mesh) since(had mesh) (*protocol.Mesh, error) {
	switch {
	case had.serial == m.serial:
		return nil, nil
	case had.serial+1 == m.serial && m.delta != nil:
		return &protocol.Mesh{Delta: m.delta}, nil
	case had.ingress == nil || m.ingress == nil:
		return m.all()
	}
	// The agent is more than one behind: it gets one change for all.
	d := network.Diff(had.ingress, m.ingress)
	if d == nil {
		return nil, nil
	}
	b, err := store.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("encoding a change of the routing mesh: %w", err)
	}
	return &protocol.Mesh{Delta: b}, nil
}

// meshChanges says whether an event may change the routing mesh.
func meshChanges(e store.Event) bool {
	switch e.Kind {
	case cluster.KindNetwork:
		return true
	case cluster.KindService:
		a, _ := e.Old.(*cluster.Service)
		b, _ := e.New.(*cluster.Service)
		return connected(a) || connected(b)
	case cluster.KindNode:
		a, okA := e.Old.(*cluster.Node)
		b, okB := e.New.(*cluster.Node)
		return !okA || !okB || a.Version != b.Version || a.Status != b.Status
	case cluster.KindTask:
		a, okA := e.Old.(*cluster.Task)
		b, okB := e.New.(*cluster.Task)
		if !attached(a) && !attached(b) {
			return false
		}
		return !okA || !okB || a.Version != b.Version || a.Status.State != b.Status.State
	}
	return false
}

// connected says whether anything of the service is on a network.
func connected(s *cluster.Service) bool {
	return s != nil && len(s.Endpoint.Ports)+len(s.Endpoint.VirtualIPs)+len(s.Spec.TaskTemplate.Networks) > 0
}

func attached(t *cluster.Task) bool { return t != nil && len(t.NetworksAttachments) > 0 }

// publish makes v the view, marks what the events changed for each session and wakes those that have to send.
func (s *Server) publish(v *view, events []store.Event) {
	var gone []*session
	s.mu.Lock()
	old := s.view
	s.view = v
	close(s.viewed)
	s.viewed = make(chan struct{})
	for _, e := range events {
		switch e.Kind {
		case cluster.KindTask:
			if onlyStatus(e) {
				continue // it comes from the node itself
			}
			for _, o := range []cluster.Object{e.Old, e.New} {
				t, ok := o.(*cluster.Task)
				if !ok {
					continue
				}
				if ss := s.sessions[t.NodeID]; ss != nil {
					ss.mark(t.ID)
				}
			}
		case cluster.KindCredentials:
			for t := range v.snap.TasksByService(e.ID) {
				if ss := s.sessions[t.NodeID]; ss != nil && usesFiles(t) {
					ss.mark(t.ID)
				}
			}
		case cluster.KindNode:
			if ss := s.sessions[e.ID]; ss != nil && e.New == nil {
				gone = append(gone, ss)
			}
		}
	}
	if old == nil || old.mesh.serial != v.mesh.serial || old.nets != v.nets || old.period != v.period || !slices.Equal(old.managers, v.managers) {
		for _, ss := range s.sessions {
			ss.poke()
		}
	}
	s.mu.Unlock()
	for _, ss := range gone {
		ss.end(errRemoved)
	}
}

// onlyStatus says whether the event of a task changes nothing for its node.
func onlyStatus(e store.Event) bool {
	a, okA := e.Old.(*cluster.Task)
	b, okB := e.New.(*cluster.Task)
	return okA && okB && a.Version == b.Version && assigned(a) == assigned(b) && usesFiles(a) == usesFiles(b)
}

// waitView waits for a view that has everything up to the version.
func (s *Server) waitView(ctx context.Context, version uint64) error {
	if err := s.cfg.Store.WaitIndex(ctx, version); err != nil {
		return err
	}
	for {
		s.mu.Lock()
		v, next := s.view, s.viewed
		s.mu.Unlock()
		if v != nil && v.version >= version {
			return nil
		}
		select {
		case s.refresh <- struct{}{}:
		default:
		}
		select {
		case <-next:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
