package dispatch

import (
	"fmt"
	"slices"
	"sync"

	"shoal.dev/shoal/internal/dispatch/protocol"
	"shoal.dev/shoal/internal/network"
	"shoal.dev/shoal/internal/store"
)

// overlay is a network of the swarm in a view. Equal serials of one ID are equal networks.
type overlay struct {
	serial uint64
	value  *network.Overlay
	bytes  func() ([]byte, error) // the encoded value, made once
}

// overlays are all networks that have tasks, by ID.
type overlays map[string]*overlay

// nextOverlays is what list makes of old: networks that are no different stay the same value.
func nextOverlays(old overlays, list []*network.Overlay, serial uint64) overlays {
	if len(list) == 0 {
		return nil
	}
	next := make(overlays, len(list))
	for _, o := range list {
		if had := old[o.ID]; had != nil && had.value.Equal(o) {
			next[o.ID] = had
			continue
		}
		next[o.ID] = &overlay{serial: serial, value: o, bytes: sync.OnceValues(func() ([]byte, error) { return store.Marshal(o) })}
	}
	return next
}

// of are the IDs of the networks that a node's tasks are on.
func (all overlays) of(snap *store.Snapshot, node string) []string {
	if len(all) == 0 {
		return nil
	}
	var ids []string
	for t := range snap.TasksByNode(node) {
		if !assigned(t) || t.Ended() {
			continue
		}
		for _, a := range t.NetworksAttachments {
			if all[a.Network.ID] != nil && !slices.Contains(ids, a.Network.ID) {
				ids = append(ids, a.Network.ID)
			}
		}
	}
	slices.Sort(ids)
	return ids
}

// sendOverlays puts what changed of the node's networks into a frame.
func (ss *session) sendOverlays(v *view, f *protocol.Frame) error {
	want := v.overlays.of(v.snap, ss.node)
	for _, id := range want {
		o := v.overlays[id]
		if ss.overlays[id] == o.serial {
			continue
		}
		b, err := o.bytes()
		if err != nil {
			return fmt.Errorf("encoding network %s: %w", o.value.Name, err)
		}
		f.Overlays = append(f.Overlays, b)
		if ss.overlays == nil {
			ss.overlays = map[string]uint64{}
		}
		ss.overlays[id] = o.serial
	}
	for id := range ss.overlays {
		if !slices.Contains(want, id) {
			f.OverlaysGone = append(f.OverlaysGone, id)
			delete(ss.overlays, id)
		}
	}
	slices.Sort(f.OverlaysGone)
	return nil
}

// Network is what a node's network is to be by this manager's records, nil before [Server.Run].
func (s *Server) Network(node string) *network.Desired {
	s.mu.Lock()
	v := s.view
	s.mu.Unlock()
	if v == nil {
		return nil
	}
	d := &network.Desired{Version: v.version, Self: node, Ingress: v.mesh.ingress}
	for _, id := range v.overlays.of(v.snap, node) {
		d.Overlays = append(d.Overlays, v.overlays[id].value)
	}
	return d
}
