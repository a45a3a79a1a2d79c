//go:build !shoal_next

package cluster

// Level is the highest feature level that this version knows.
const Level = firstLevel

// next is what the next version adds to the Swarm record: nothing that this one knows. See level_next.go.
type next struct{}

// Adopt is what a version writes into the swarm's records once the swarm has its level; nil if there is nothing to.
func Adopt(*Swarm) *Swarm { return nil }
