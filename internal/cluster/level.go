package cluster

// Feature levels are how managers of two versions live in one swarm. Each new kind of record, each new field of one and each
// new thing that nodes say to each other belongs to a level; [Level] is the highest that this version knows. Nodes tell
// theirs, and the swarm's own, Swarm.Level, rises to the lowest of its managers' and never falls. Nothing of a level is
// written before the swarm has it, because a manager that does not know a field drops it when it writes the record again,
// and one that does not know a kind cannot read the entry. A manager whose version knows less than the swarm's level does
// not take part; see [Swarm.Beyond].

// firstLevel is that of the versions before there were levels, which say none.
const firstLevel = 1

// LevelOf is the level of a node's version.
func (n *Node) LevelOf() int { return max(n.Level, firstLevel) }

// LevelOf is the level of which the swarm's records may be.
func (s *Swarm) LevelOf() int { return max(s.Level, firstLevel) }

// Beyond says whether the swarm's records may have what this version of Shoal does not know.
func (s *Swarm) Beyond() bool { return s.LevelOf() > Level }
