package placement

import (
	"maps"
	"slices"

	"github.com/moby/moby/api/types/swarm"
)

// pool is what a node has left of its generic resources: by kind a number or names.
type pool struct {
	counts map[string]int64
	names  map[string][]string // sorted
}

func newPool(has []swarm.GenericResource) pool {
	p := pool{}
	for _, r := range has {
		p.put(r)
	}
	for _, names := range p.names {
		slices.Sort(names)
	}
	return p
}

func (p *pool) put(r swarm.GenericResource) {
	if d := r.DiscreteResourceSpec; d != nil {
		if p.counts == nil {
			p.counts = map[string]int64{}
		}
		p.counts[d.Kind] += d.Value
	}
	if n := r.NamedResourceSpec; n != nil {
		if p.names == nil {
			p.names = map[string][]string{}
		}
		p.names[n.Kind] = append(p.names[n.Kind], n.Value)
	}
}

// take books what a task was given.
func (p *pool) take(given []swarm.GenericResource) {
	for _, r := range given {
		if d := r.DiscreteResourceSpec; d != nil && p.counts != nil {
			p.counts[d.Kind] -= d.Value
		}
		if n := r.NamedResourceSpec; n != nil && p.names != nil {
			p.names[n.Kind] = slices.DeleteFunc(p.names[n.Kind], func(have string) bool { return have == n.Value })
		}
	}
}

// wanted is how much of each kind a task asks for. Control lets only numbers in.
func wanted(ask []swarm.GenericResource) map[string]int64 {
	if len(ask) == 0 {
		return nil
	}
	w := map[string]int64{}
	for _, r := range ask {
		if d := r.DiscreteResourceSpec; d != nil && d.Value > 0 {
			w[d.Kind] += d.Value
		}
	}
	return w
}

func (p *pool) has(want map[string]int64) bool {
	for kind, n := range want {
		if n > p.counts[kind] && n > int64(len(p.names[kind])) {
			return false
		}
	}
	return true
}

// claim picks and books what a task is given, names in their order; the pool has it.
func (p *pool) claim(want map[string]int64) []swarm.GenericResource {
	var given []swarm.GenericResource
	for _, kind := range slices.Sorted(maps.Keys(want)) {
		n := want[kind]
		if n <= p.counts[kind] {
			given = append(given, swarm.GenericResource{DiscreteResourceSpec: &swarm.DiscreteGenericResource{Kind: kind, Value: n}})
			continue
		}
		for _, name := range p.names[kind][:n] {
			given = append(given, swarm.GenericResource{NamedResourceSpec: &swarm.NamedGenericResource{Kind: kind, Value: name}})
		}
	}
	p.take(given)
	return given
}
