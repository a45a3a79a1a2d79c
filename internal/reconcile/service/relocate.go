package service

import (
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/store"
)

// moveCheck is how often a slot with a task that is moving is looked at if nothing happens to it.
const moveCheck = 5 * time.Second

// relocate replaces a task that is to move, which package rebalance decided. The new one runs before the old one stops,
// unless the service's update configuration says otherwise: the old one is on another node, and in nobody's way.
func (pl *plan) relocate(s *slot) {
	cur := s.current
	t := pl.newTask(s.place)
	t.Attempt = cur.Attempt
	if c := pl.svc.Spec.UpdateConfig; c != nil && c.Order == swarm.UpdateOrderStopFirst {
		pl.await(t)
		pl.replace(s, t, "it moves to another node")
		return
	}
	pl.again(pl.env.Now.Add(moveCheck))
	pl.group(s.String()+" moves to another node, the new task first", store.Create(t), pl.claim(s, t))
}

// relocating says whether a task of the slot runs on until the one that it gives way to does.
func relocating(s *slot) bool {
	for _, t := range s.tasks {
		if t != s.current && t.Moving && t.WantsToRun() {
			return true
		}
	}
	return false
}
