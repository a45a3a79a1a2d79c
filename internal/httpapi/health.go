package httpapi

import "time"

// SwarmHealth is how a swarm's managers are, as one of them sees it.
type SwarmHealth struct {
	// Status is StatusOK, StatusDegraded or StatusNoQuorum; Reasons says why it is not the first.
	Status  string
	Reasons []string
	// Leader is the leading manager's node ID, "" if there is none.
	Leader string
	// Epoch counts cuts of the swarm's history.
	Epoch uint64
	// Level is the feature level that all managers' versions know.
	Level int
	// Voters are the managers that count, Quorum how many of them must live, Reachable how many answered, and Tolerance
	// how many of those may still be lost.
	Voters, Quorum, Reachable, Tolerance int
	Managers                             []ManagerHealth
}

// The states of a swarm.
const (
	StatusOK       = "ok"
	StatusDegraded = "degraded"
	StatusNoQuorum = "no quorum"
)

// ManagerHealth is how one manager is. Of one that is not reachable the rest is not known.
type ManagerHealth struct {
	ID, Hostname, Addr       string
	Voter, Leader, Reachable bool
	// Lag is how many entries of the log it lacks that another manager has.
	Lag uint64
	// LastContact is how long ago it heard the leader, in nanoseconds; negative if it never did.
	LastContact time.Duration
	// CertificateNotAfter is when its certificate ends, and CertificateLate says that it should have been renewed by now.
	CertificateNotAfter time.Time
	CertificateLate     bool
	// DiskFree and DiskTotal are bytes on the disk of its state.
	DiskFree, DiskTotal uint64
	// ClockOffset is how far its clock is ahead of the asked manager's, in nanoseconds, give or take the way there.
	ClockOffset time.Duration
}

// NetworkCheck is a comparison of what the swarm's records say of networks with what the nodes have.
type NetworkCheck struct {
	// Networks has an entry for each network and each node that it is on.
	Networks []NetworkOnNode
	// Silent are the nodes that are not down and did not answer, and Down those that were not asked.
	Silent []SilentNode
	Down   []SilentNode
}

// NetworkOnNode is one network on one node. Differences is empty if the records, what the node was told and its kernel
// agree. Of what the node has beside the swarm's networks, ID and Name are "".
type NetworkOnNode struct {
	ID, Name         string
	NodeID, Hostname string
	Differences      []string
}

// SilentNode is a node of which nothing is known.
type SilentNode struct{ NodeID, Hostname, Why string }
