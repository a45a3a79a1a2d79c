// Package reconcile is the control loop: THE one runner, and the contract of the planners that it runs.
//
// A planner is a pure function from a snapshot to changes. The runner owns time, IDs and commits: it runs only on the
// leader, marks everything dirty when leadership is gained, coalesces what became dirty, takes one snapshot a round,
// plans, commits the plans' groups with their expected versions and plans again what conflicted. It decides nothing
// about services, tasks or nodes.
package reconcile

import (
	"time"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// Key names one thing that a planner plans: usually a record's ID.
type Key string

// Planner decides one kind of thing. It keeps no state between calls: everything it needs is in the arguments.
type Planner interface {
	// Name is for logs: "service", "placement" …
	Name() string
	// Keys says what a change made dirty. For a Reset event the runner calls AllKeys instead.
	Keys(snap *store.Snapshot, e store.Event) []Key
	// AllKeys is every key there is, for a new leader.
	AllKeys(snap *store.Snapshot) []Key
	// Plan says what to change. Planning what is already as planned returns no groups.
	Plan(snap *store.Snapshot, key Key, env Env) Plan
}

// Env is what a planner needs and may not make itself.
type Env struct {
	// Now is swarm time.
	Now time.Time
	// NewID makes an ID for a record.
	NewID func() string
	// Observed is what is volatile.
	Observed Observed
}

// Observed is what is known of the nodes now and never goes through Raft. Its times are swarm time, like Env.Now: an
// implementation keeps a monotonic reading and returns store.Now minus the age, so that a step of the host's clock
// makes nobody look absent. It is safe for concurrent use.
type Observed interface {
	// LastHeard is when the node was last heard by any manager. ok is false for a node not heard since this manager
	// became the leader.
	LastHeard(nodeID string) (at time.Time, ok bool)
	// LeaderSince is when this manager became the leader. Absence before one full period after it proves nothing.
	LeaderSince() time.Time
	// Applied is the store version that the node's kernel holds; 0 if it is not known.
	Applied(nodeID string) uint64
	// Usage is what a task used lately, as its node said. ok is false if that is not known; only tasks of services that
	// are scaled by it are measured.
	Usage(taskID string) (u cluster.Usage, ok bool)
}

// Clocks is what an [Observed] may know besides: how far a node's clock is ahead of that of the manager that hears it, 0
// while that does not matter.
type Clocks interface {
	ClockOffset(nodeID string) time.Duration
}

// Plan is what a planner wants. It is data and prints.
type Plan struct {
	// Groups are independent of each other: each commits or conflicts by itself.
	Groups []store.Group
	// Again is when to plan this key again even if nothing changes; zero: never.
	Again time.Time
	// Reasons say in words why something wanted was not planned.
	Reasons []string
}
