package scale

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/bench"
)

// reachRuns is how often a published service loses a task, and gets one; with 100 nodes a thousand arrivals each.
const reachRuns = 10

// reach measures how long a change of the routing mesh is under way: from the request until each node has been told.
func (m *hollowManager) reach(ctx context.Context, o HollowOptions, r *bench.Report) error {
	fmt.Fprintln(o.Out, "changes are sent to all nodes")
	var p planning
	spec := p.newService("reached", 2).Spec
	spec.EndpointSpec = &swarm.EndpointSpec{Ports: []swarm.PortConfig{{TargetPort: 80, PublishedPort: 8080}}}
	var created swarm.ServiceCreateResponse
	if _, err := m.told(ctx, func() error { return m.call(ctx, "POST", "/services/create", spec, &created) }); err != nil {
		return err
	}
	for range reachRuns {
		for _, c := range []struct {
			replicas uint64
			name     string
		}{{1, "a task that goes"}, {2, "a task that comes"}} {
			var s swarm.Service
			if err := m.call(ctx, "GET", "/services/"+created.ID, nil, &s); err != nil {
				return err
			}
			s.Spec.Mode.Replicated.Replicas = &c.replicas
			took, err := m.told(ctx, func() error {
				return m.call(ctx, "POST", fmt.Sprintf("/services/%s/update?version=%d", created.ID, s.Version.Index), s.Spec, nil)
			})
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			slices.Sort(took)
			r.Add(o.side(), "request until the middle node hears of "+c.name, "ms", milliseconds(took[len(took)/2]))
			r.Add(o.side(), "request until 99 % of the nodes hear of "+c.name, "ms", milliseconds(took[len(took)*99/100]))
		}
	}
	return m.call(ctx, "DELETE", "/services/"+created.ID, nil, nil)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// told makes a change and says when each node got a frame with the mesh, counted from the request's beginning. It returns
// a while after that.
func (m *hollowManager) told(ctx context.Context, change func() error) ([]time.Duration, error) {
	for _, n := range m.nodes {
		n.heard.Store(0)
	}
	began := time.Now()
	if err := change(); err != nil {
		return nil, err
	}
	took := make([]time.Duration, len(m.nodes))
	for end := began.Add(10 * time.Second); ; {
		missing := 0
		for i, n := range m.nodes {
			if took[i] > 0 {
				continue
			}
			if at := n.heard.Load(); at != 0 {
				took[i] = time.Unix(0, at).Sub(began)
			} else {
				missing++
			}
		}
		if missing == 0 {
			break
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("%d nodes of %d have not heard of it", missing, len(m.nodes))
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return nil, err
		}
	}
	// The manager's book of what the nodes have applied follows, and is not to be part of the next change.
	return took, pause(ctx, time.Second)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
