package cluster

import "time"

// Explanation is what the scheduler says of a service now: where its next task would go, why the other nodes are refused,
// why tasks wait, and how tasks failed. It is made when it is asked for and never stored.
type Explanation struct {
	ServiceID, ServiceName string
	// Nodes are all nodes: those that may have the next task in the order in which they would be chosen, then the refused.
	Nodes []NodeVerdict
	// Waiting are the tasks that are meant to run and have no node yet, by reason, the most frequent first.
	Waiting []WaitingTasks
	// Failures are the failed and rejected tasks that the history still has, the latest first; those of one node, error and
	// exit code count together.
	Failures []TaskFailures
}

// NodeVerdict is what the scheduler says of a node for a service's next task.
type NodeVerdict struct {
	ID, Hostname string
	// Filter is the first filter that the node does not pass, "" if it passes all: "ready", "resources", "privileges", "constraints",
	// "platform", "plugins", "disk", "ports" or "max replicas".
	Filter string `json:",omitempty"`
	// Refusal says why, with what is asked and what there is.
	Refusal string `json:",omitempty"`
	// Rank is the node's place in the order of choice, from 1; 0 if it is refused.
	Rank int `json:",omitempty"`
	// Score is what the order comes from; the lower is the better, and what comes first decides first.
	Score NodeScore
}

// NodeScore is what a node is compared by.
type NodeScore struct {
	// Failures is how many of the service's tasks failed there lately. Avoided says that they are so many that the node is
	// taken last.
	Failures int
	Avoided  bool
	// Spread are the groups of the placement preferences that the node is in, the outermost first.
	Spread []SpreadGroup `json:",omitempty"`
	// Own is how many of the service's tasks are there, Tasks how many of all services.
	Own, Tasks int
}

// SpreadGroup is the nodes with one value of a label, within the groups of the preferences before.
type SpreadGroup struct {
	Label, Value string
	// Tasks is how many of the service's tasks the group has.
	Tasks int
}

// WaitingTasks are tasks that wait for the same reason.
type WaitingTasks struct {
	Reason string
	Tasks  []string // IDs
}

// TaskFailures are failed tasks of one node, error and exit code.
type TaskFailures struct {
	NodeID, Hostname string
	State            string
	Err              string
	ExitCode         int
	Count            int
	// Last is when the latest of them failed, by its node's clock, and LastTask which it is.
	Last     time.Time
	LastTask string
}
