// Package plantest is what tests of planners share: a store, what is observed of nodes, and a way to plan until nothing
// is left to plan. Only tests import it.
package plantest

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/reconcile"
	"shoal.dev/shoal/internal/store"
)

// Swarm is a store and what a planner is given besides.
type Swarm struct {
	testing.TB
	Store *store.Store
	// At is swarm time; tests set it.
	At     time.Time
	Heard  map[string]time.Time
	Leader time.Time
	Holds  map[string]uint64        // version that a node's kernel holds
	Uses   map[string]cluster.Usage // of tasks
	ids    int
}

// New is an empty swarm.
func New(t testing.TB) *Swarm {
	s := &Swarm{TB: t, Store: store.New(), At: time.Now(), Heard: map[string]time.Time{}, Holds: map[string]uint64{}, Uses: map[string]cluster.Usage{}}
	s.Leader = s.At.Add(-time.Hour)
	store.NewLocal(s.Store)
	return s
}

// NewID counts.
func (s *Swarm) NewID() string { s.ids++; return fmt.Sprintf("id%05d", s.ids) }

// LastHeard, LeaderSince, Applied and Usage are reconcile.Observed.
func (s *Swarm) LastHeard(id string) (time.Time, bool) { t, ok := s.Heard[id]; return t, ok }
func (s *Swarm) LeaderSince() time.Time                { return s.Leader }
func (s *Swarm) Applied(id string) uint64              { return s.Holds[id] }
func (s *Swarm) Usage(id string) (cluster.Usage, bool) { u, ok := s.Uses[id]; return u, ok }

// Env is a planner's.
func (s *Swarm) Env() reconcile.Env {
	return reconcile.Env{Now: s.At, NewID: s.NewID, Observed: s}
}

// Put writes records, new or changed.
func (s *Swarm) Put(os ...cluster.Object) {
	s.Helper()
	if _, err := s.Store.Update(context.Background(), func(tx *store.Tx) error {
		for _, o := range os {
			if o.GetMeta().Version.Index == 0 {
				tx.Write(store.Create(o.Clone()))
			} else {
				tx.Write(store.PutBoth(o.Clone()))
			}
		}
		return nil
	}); err != nil {
		s.Fatal(err)
	}
}

// Node makes a node that is ready.
func (s *Swarm) Node(id string, change ...func(*cluster.Node)) *cluster.Node {
	s.Helper()
	n := &cluster.Node{}
	n.ID = id
	n.Description.Hostname = "host-" + id
	n.Spec.Availability, n.Spec.Role = swarm.NodeAvailabilityActive, swarm.NodeRoleWorker
	n.Status.State = swarm.NodeStateReady
	n.Description.Resources = swarm.Resources{NanoCPUs: 4e9, MemoryBytes: 8 << 30}
	for _, f := range change {
		f(n)
	}
	s.Put(n)
	return n
}

// Service makes a service with so many replicas.
func (s *Swarm) Service(id string, replicas uint64, change ...func(*cluster.Service)) *cluster.Service {
	s.Helper()
	v := &cluster.Service{}
	v.ID, v.Spec.Name = id, id
	v.Spec.Mode.Replicated = &swarm.ReplicatedService{Replicas: &replicas}
	v.Spec.TaskTemplate.ContainerSpec = &swarm.ContainerSpec{Image: "hello:1"}
	for _, f := range change {
		f(v)
	}
	s.Put(v)
	return v
}

// Get is a record that must be there.
func Get[T cluster.Object](s *Swarm, id string) T {
	s.Helper()
	o, ok := store.Get[T](s.Store.Snapshot(), id)
	if !ok {
		s.Fatalf("%s is gone", id)
	}
	return o
}

// Change changes a record.
func Change[T cluster.Object](s *Swarm, id string, f func(T)) {
	s.Helper()
	c := Get[T](s, id).Clone().(T)
	f(c)
	s.Put(c)
}

// Tasks are the tasks of a service.
func (s *Swarm) Tasks(service string) []*cluster.Task {
	var ts []*cluster.Task
	for t := range s.Store.Snapshot().TasksByService(service) {
		ts = append(ts, t)
	}
	return ts
}

// Plan plans all keys of the planner once and commits; no group may conflict. It returns why each group was planned
// and the reasons for what was not.
func (s *Swarm) Plan(p reconcile.Planner) (why, reasons []string, again time.Time) {
	s.Helper()
	snap := s.Store.Snapshot()
	for _, k := range p.AllKeys(snap) {
		plan := p.Plan(s.Store.Snapshot(), k, s.Env())
		reasons = append(reasons, plan.Reasons...)
		if !plan.Again.IsZero() && (again.IsZero() || plan.Again.Before(again)) {
			again = plan.Again
		}
		if len(plan.Groups) == 0 {
			continue
		}
		_, errs, err := s.Store.Propose(context.Background(), plan.Groups)
		if err != nil {
			s.Fatal(err)
		}
		for i, e := range errs {
			if e != nil {
				s.Errorf("%s %s: %s conflicts: %v", p.Name(), k, plan.Groups[i].Why, e)
			}
			why = append(why, plan.Groups[i].Why)
		}
	}
	return why, reasons, again
}

// Settle plans until nothing is left, which must be soon (invariant 6: planning what is planned changes nothing).
func (s *Swarm) Settle(ps ...reconcile.Planner) {
	s.Helper()
	for range 10 {
		left := 0
		for _, p := range ps {
			why, _, _ := s.Plan(p)
			left += len(why)
		}
		if left == 0 {
			return
		}
	}
	s.Error("the planners find something to change every time")
}

// Subnet is a prefix that must be one.
func Subnet(s string) netip.Prefix { return netip.MustParsePrefix(s) }
