package swarm

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/moby/moby/api/types/swarm"
)

// perform does what a schedule says, each thing at its time, and waits for the end of all.
func (w *world) perform(faults []fault) {
	began := time.Now()
	var all sync.WaitGroup
	for i, f := range faults {
		time.Sleep(time.Until(began.Add(f.at)))
		w.note("> %v", f)
		rng := rand.New(rand.NewPCG(w.seed, uint64(1000+i)))
		all.Go(func() { w.happen(f, rng) })
	}
	all.Wait()
}

// happen is one fault from its beginning to its end.
func (w *world) happen(f fault, rng *rand.Rand) {
	h := w.hosts[f.a]
	if leader := w.leader(); leader != nil && slices.Contains([]string{killLeader, cutLeader, demoteLeader}, f.what) {
		h = leader
		w.note("%s leads", h.name)
	}
	paths := func(from, to []*host) (ps []path) {
		for _, a := range from {
			for _, b := range to {
				if a != b {
					ps = append(ps, path{a.ip, b.ip})
				}
			}
		}
		return ps
	}
	me, other := []*host{h}, []*host{w.hosts[f.b]}
	switch f.what {
	case isolate, cutLeader:
		w.cutFor(f.d, append(paths(me, w.hosts), paths(w.hosts, me)...))
	case deaf:
		w.cutFor(f.d, paths(w.hosts, me))
	case mute:
		w.cutFor(f.d, paths(me, w.hosts))
	case cutOneWay:
		w.cutFor(f.d, paths(me, other))
	case cutBoth:
		w.cutFor(f.d, append(paths(me, other), paths(other, me)...))
	case split:
		var in, out []*host
		for i, h := range w.hosts {
			if slices.Contains(f.set, i) {
				in = append(in, h)
			} else {
				out = append(out, h)
			}
		}
		w.cutFor(f.d, append(paths(in, out), paths(out, in)...))
	case slowNet, lossyNet:
		w.spoilFor(f, append(paths(me, w.hosts), paths(w.hosts, me)...))
	case resets:
		w.net.reset(h.ip, w.hosts[f.b].ip)
	case kill, killLeader:
		w.downFor(f.d, false, h)
	case power:
		w.downFor(f.d, true, h)
	case blackout:
		w.downFor(f.d, true, w.hosts...)
	case restart:
		h.stop()
		h.start()
	case crashInWrite:
		h.crashAt.Store(f.n)
		time.Sleep(f.d)
		h.crashAt.Store(0)
		h.start()
	case slowDisk:
		h.diskLag.Store(f.n * int64(time.Millisecond) / 4)
		time.Sleep(f.d)
		h.diskLag.Store(0)
	case fullDisk:
		h.full.Store(true)
		time.Sleep(f.d)
		h.full.Store(false)
	case promote:
		w.setNode(h, func(s *swarm.NodeSpec) { s.Role = swarm.NodeRoleManager })
	case demote, demoteLeader:
		w.setNode(h, func(s *swarm.NodeSpec) { s.Role = swarm.NodeRoleWorker })
	case swap:
		w.setNode(h, func(s *swarm.NodeSpec) { s.Role = swarm.NodeRoleWorker })
		w.setNode(w.hosts[f.b], func(s *swarm.NodeSpec) { s.Role = swarm.NodeRoleManager })
	case drain:
		w.setNode(h, func(s *swarm.NodeSpec) { s.Availability = swarm.NodeAvailabilityDrain })
		time.Sleep(f.d)
		w.setNode(h, func(s *swarm.NodeSpec) { s.Availability = swarm.NodeAvailabilityActive })
	case leave:
		w.leave(h)
	case crashTask:
		for _, c := range h.running() {
			if e := h.machine(); e != nil && e.Crash(c.ID, 1+rng.IntN(100)) == nil {
				break
			}
		}
	}
}

func (w *world) cutFor(d time.Duration, ps []path) {
	w.net.alter(func() {
		for _, p := range ps {
			w.net.cut[p]++
		}
	})
	time.Sleep(d)
	w.net.alter(func() {
		for _, p := range ps {
			w.net.cut[p]--
		}
	})
}

func (w *world) spoilFor(f fault, ps []path) {
	set := func(on bool) {
		w.net.alter(func() {
			for _, p := range ps {
				switch {
				case f.what == slowNet && on:
					w.net.slow[p] = time.Duration(f.n) * time.Millisecond
				case f.what == slowNet:
					delete(w.net.slow, p)
				case on:
					w.net.lossy[p] = int(f.n)
				default:
					delete(w.net.lossy, p)
				}
			}
		})
	}
	set(true)
	time.Sleep(f.d)
	set(false)
}

// slowEntries makes the hosts' writes of entries, which begin within d, take so much longer.
func (w *world) slowEntries(lag, d time.Duration, hosts ...*host) {
	for _, h := range hosts {
		h.entryLag.Store(int64(lag))
	}
	time.Sleep(d)
	for _, h := range hosts {
		h.entryLag.Store(0)
	}
}

func (w *world) downFor(d time.Duration, power bool, hosts ...*host) {
	var all sync.WaitGroup
	for _, h := range hosts {
		w.mu.Lock()
		w.stats.Crashes++
		w.mu.Unlock()
		all.Go(func() { h.crash(power) })
	}
	all.Wait()
	time.Sleep(d)
	for _, h := range hosts {
		h.start()
	}
}

// leader is who leads, as the first manager says that knows; nil if none does.
func (w *world) leader() (found *host) {
	w.anyManager(0, func(m *host) bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		a, err := m.ask(ctx, http.MethodGet, "/nodes", nil)
		var nodes []swarm.Node
		if err != nil || a.status != http.StatusOK || a.stale || json.Unmarshal(a.body, &nodes) != nil {
			return false
		}
		for _, n := range nodes {
			if n.ManagerStatus != nil && n.ManagerStatus.Leader {
				found = w.hostOf(n.ID)
			}
		}
		return found != nil
	})
	return found
}

// hostOf is the host that is a node; nil if none is.
func (w *world) hostOf(id string) *host {
	for _, h := range w.hosts {
		if h.id() == id {
			return h
		}
	}
	return nil
}

// anyManager asks one host after the other, from a place that the seed says, until one does it.
func (w *world) anyManager(first int, do func(*host) bool) bool {
	for i := range w.hosts {
		h := w.hosts[(first+i)%len(w.hosts)]
		if h.alive() != nil && do(h) {
			return true
		}
	}
	return false
}

// setNode changes a node's specification through some manager.
func (w *world) setNode(h *host, change func(*swarm.NodeSpec)) bool {
	return w.setNodeID(h.id(), change)
}

func (w *world) setNodeID(id string, change func(*swarm.NodeSpec)) bool {
	return w.anyManager(int(mix(w.seed)%7), func(m *host) bool {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		a, err := m.ask(ctx, http.MethodGet, "/nodes/"+id, nil)
		if err != nil || a.status != http.StatusOK || a.stale {
			return false
		}
		var n swarm.Node
		if json.Unmarshal(a.body, &n) != nil {
			return false
		}
		change(&n.Spec)
		a, err = w.do(m, patience, http.MethodPost, fmt.Sprintf("/nodes/%s/update?version=%d", id, n.Version.Index), n.Spec)
		return err == nil && a.status < 500
	})
}

// leave takes a host out of the swarm as its users do, and in again as another node.
func (w *world) leave(h *host) {
	id := h.id()
	manager := false
	w.setNode(h, func(s *swarm.NodeSpec) {
		manager = s.Role == swarm.NodeRoleManager
		s.Role = swarm.NodeRoleWorker
	})
	gone := func() bool { // it is no manager any more
		var n swarm.Node
		return w.anyManager(0, func(m *host) bool {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			return m.get(ctx, "/nodes/"+id, &n) == nil
		}) && n.Spec.Role == swarm.NodeRoleWorker && n.ManagerStatus == nil
	}
	for range 10 {
		if gone() {
			break
		}
		time.Sleep(time.Second)
	}
	if !gone() {
		return
	}
	if a, err := w.do(h, membership, http.MethodPost, "/swarm/leave?force=1", nil); err != nil || a.status != http.StatusOK {
		return
	}
	h.setID("")
	w.anyManager(1, func(m *host) bool {
		a, err := w.do(m, patience, http.MethodDelete, "/nodes/"+id+"?force=1", nil)
		return err == nil && (a.status == http.StatusOK || a.status == http.StatusNotFound)
	})
	w.rejoin(h, manager)
}

// rejoin makes a host that left a member again, however often it has to ask.
func (w *world) rejoin(h *host, manager bool) bool {
	for range 20 {
		var through []*host
		for _, m := range w.up() {
			if m != h {
				through = append(through, m)
			}
		}
		if err := w.join(h, manager, through...); err == nil {
			return true
		}
		time.Sleep(2 * time.Second)
	}
	return false
}
