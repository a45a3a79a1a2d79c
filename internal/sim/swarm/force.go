package swarm

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// comeBack bounds the time until a manager of the past that has met the new swarm is a worker of it.
const comeBack = 90 * time.Second

// within keeps the hosts of a schedule to those that there are.
func within(faults []fault, hosts int) []fault {
	for i := range faults {
		f := &faults[i]
		f.a %= hosts
		if f.b %= hosts; f.b == f.a {
			f.b = (f.a + 1) % hosts
		}
		for j := range f.set {
			f.set[j] %= hosts
		}
	}
	return faults
}

// forceNewCluster takes all managers but one from the swarm for good and makes that one a swarm of its own. The others come
// back then and must become its workers. What was acknowledged must be there: clients rest until every manager has it, as
// nobody can ask more of a manager that is alone. It says whether there were managers to lose.
func (w *world) forceNewCluster(work *load) bool {
	work.paused.Store(true)
	defer work.paused.Store(false)
	time.Sleep(patience) // what was asked is answered by then
	w.settle()
	var managers []*host
	for n := range store.List[*cluster.Node](w.snapshot()) {
		if h := w.hostOf(n.ID); h != nil && n.Spec.Role == swarm.NodeRoleManager {
			managers = append(managers, h)
		}
	}
	w.mu.Lock()
	failed := len(w.violations) > 0
	w.mu.Unlock()
	if failed || len(managers) < 2 {
		return false
	}
	rng := rand.New(rand.NewPCG(w.seed, 0xf04ce))
	rng.Shuffle(len(managers), func(i, j int) { managers[i], managers[j] = managers[j], managers[i] })
	left, lost := managers[0], managers[1:]
	w.note("%s loses the other managers for good", left.name)
	w.mu.Lock()
	w.stats.Forced++
	for _, h := range lost {
		h.retire = true
	}
	w.mu.Unlock()
	for _, h := range lost {
		h.crash(rng.IntN(2) == 0)
	}
	time.Sleep(between(rng, time.Second, 8*time.Second))
	w.mu.Lock()
	w.forcing = left
	w.mu.Unlock()
	if err := w.init(left, true); err != nil {
		w.violate("--force-new-cluster on %s: %v", left.name, err)
		return false
	}
	work.paused.Store(false)
	for _, h := range lost { // one at a time: a majority of them would go on with the old swarm
		h.start()
		began := time.Now()
		for !w.isWorker(h) {
			if time.Since(began) > comeBack {
				w.violate("%s is not a worker of the new swarm %v after it came back", h.name, comeBack)
				return false
			}
			time.Sleep(glance)
		}
		w.mu.Lock()
		h.retire = false
		w.mu.Unlock()
	}
	for _, h := range lost {
		if rng.IntN(4) > 0 {
			w.setNode(h, func(s *swarm.NodeSpec) { s.Role = swarm.NodeRoleManager })
		}
	}
	time.Sleep(between(rng, 0, 5*time.Second))
	return true
}

// isWorker says whether a host is a node of the swarm and no manager.
func (w *world) isWorker(h *host) bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var info struct{ Swarm swarm.Info }
	return h.get(ctx, "/info", &info) == nil && info.Swarm.LocalNodeState == swarm.LocalNodeStateActive && !info.Swarm.ControlAvailable
}
