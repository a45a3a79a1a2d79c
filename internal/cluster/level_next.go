//go:build shoal_next

package cluster

// Level is that of a next version, which exists only in tests: built with the tag shoal_next it adds a field to a record.
const Level = firstLevel + 1

// next is what the next version adds to the Swarm record.
type next struct {
	// Motto belongs to level 2.
	Motto string `json:",omitempty"`
}

// Adopt gives the swarm its motto.
func Adopt(s *Swarm) *Swarm {
	if s.LevelOf() < Level || s.Motto != "" {
		return nil
	}
	out := s.Clone().(*Swarm)
	out.Motto = "a field of the next version"
	return out
}
