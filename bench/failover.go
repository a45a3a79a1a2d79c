package bench

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
)

// failover measures from the moment at which the leader loses its power until another manager accepts a change, and nothing
// else, so that it can be repeated often.
func failover(ctx context.Context, g *rig, r *Report, run int) error {
	lost, err := g.leader(ctx)
	if err != nil {
		return err
	}
	at := lost%3 + 1
	// The same manager may have to be asked who is there: all three take part, and have for a while.
	if _, err := g.nodeIs(ctx, at, lost, swarm.NodeStateReady); err != nil {
		return err
	}
	begin := time.Now()
	if err := g.lab.Kill(ctx, g.base+lost); err != nil {
		return err
	}
	if err := g.accepted(ctx, at, fmt.Sprintf("failover-%d", run)); err != nil {
		return err
	}
	r.add("leader killed until the next change is accepted, alone", "s", time.Since(begin).Seconds())
	if err := g.lab.Start(ctx, g.base+lost); err != nil {
		return err
	}
	return poll(ctx, 20*time.Millisecond, func() error {
		res, err := g.clients[at-1].NodeList(ctx, client.NodeListOptions{})
		if err != nil {
			return err
		}
		for _, n := range res.Items {
			if n.Status.State != swarm.NodeStateReady || n.ManagerStatus == nil || n.ManagerStatus.Reachability != swarm.ReachabilityReachable {
				return fmt.Errorf("%s is %s", n.Description.Hostname, n.Status.State)
			}
		}
		return nil
	})
}

// accepted asks for changes through host at until one is made.
func (r *rig) accepted(ctx context.Context, at int, name string) error {
	var tries atomic.Int64
	return poll(ctx, 10*time.Millisecond, func() error {
		// A request that was sent to the dead leader may hang; the next need not.
		try, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := r.create(try, at, fmt.Sprintf("%s-%d", name, tries.Add(1)), 0)
		return err
	})
}

// membership measures `swarm init` and `swarm join` as a manager and as a worker, from the request to its answer, on hosts
// that are in no swarm.
func membership(ctx context.Context, g *rig, r *Report, _ int) error {
	for _, c := range g.clients {
		if _, err := c.SwarmLeave(ctx, client.SwarmLeaveOptions{Force: true}); err != nil {
			return err
		}
	}
	first := g.host(1).Addr
	begin := time.Now()
	if _, err := g.clients[0].SwarmInit(ctx, client.SwarmInitOptions{AdvertiseAddr: first, ListenAddr: "0.0.0.0:2377"}); err != nil {
		return err
	}
	r.add("swarm init", "s", time.Since(begin).Seconds())
	sw, err := g.clients[0].SwarmInspect(ctx, client.SwarmInspectOptions{})
	if err != nil {
		return err
	}
	for n, as := range map[int]struct{ role, token string }{2: {"manager", sw.Swarm.JoinTokens.Manager}, 3: {"worker", sw.Swarm.JoinTokens.Worker}} {
		begin := time.Now()
		o := client.SwarmJoinOptions{JoinToken: as.token, RemoteAddrs: []string{first + ":2377"}, ListenAddr: "0.0.0.0:2377"}
		if _, err := g.clients[n-1].SwarmJoin(ctx, o); err != nil {
			return err
		}
		r.add("swarm join as a "+as.role, "s", time.Since(begin).Seconds())
	}
	return nil
}
