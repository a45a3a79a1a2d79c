package agent

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/dispatch/protocol"
)

const (
	// measureEvery is the time between two measurements of a task.
	measureEvery = 10 * time.Second
	// measureTimeout bounds one measurement of all tasks, and the request with it.
	measureTimeout = 5 * time.Second
)

// meter measures the tasks of the services that a manager names, for a manager that scales by it. Nothing waits for a
// measurement, and one that is lost is not sent again.
type meter struct {
	mu       sync.Mutex
	services []string // whose tasks are measured

	before map[string]reading // by task, of the measurement before
}

type reading struct {
	at  time.Time
	cpu uint64 // nanoseconds since the container started
	// connections were begun to the task since somebody began to count.
	connections uint64
}

func (m *meter) set(services []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.services = services
}

// rate is what a container used since the measurement before; ok is false for the first.
func (m *meter) rate(task string, s *container.StatsResponse, connections uint64, now time.Time) (u protocol.TaskUsage, ok bool) {
	had, known := m.before[task]
	r := reading{now, s.CPUStats.CPUUsage.TotalUsage, connections}
	m.before[task] = r
	took := r.at.Sub(had.at)
	if !known || took <= 0 || r.cpu < had.cpu { // another container
		return u, false
	}
	// What the kernel takes back at once is no reason for more tasks: as docker stats shows it.
	memory := s.MemoryStats.Usage
	for _, k := range []string{"total_inactive_file", "inactive_file"} {
		if v, there := s.MemoryStats.Stats[k]; there && v <= memory {
			memory -= v
			break
		}
	}
	cpu := float64(r.cpu-had.cpu) / took.Seconds()
	if connections >= had.connections { // otherwise they count from zero again
		connections -= had.connections
	}
	return protocol.TaskUsage{
		TaskID: task, NanoCPUs: int64(cpu), MemoryBytes: int64(memory), Connections: float64(connections) / took.Seconds(),
	}, true
}

// measure measures over a session until ctx ends.
func (a *Agent) measure(ctx context.Context, rt http.RoundTripper) {
	m := &a.meter
	m.before = map[string]reading{}
	tick := time.NewTicker(measureEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		m.mu.Lock()
		services := m.services
		m.mu.Unlock()
		if len(services) == 0 {
			clear(m.before)
			continue
		}
		one, cancel := context.WithTimeout(ctx, measureTimeout)
		for used := range slices.Chunk(a.used(one, services), protocol.MaxStatuses) {
			req := protocol.UsageRequest{NodeID: a.cfg.NodeID, Tasks: used}
			if err := protocol.Post(one, rt, protocol.PathUsage, req); err != nil && ctx.Err() == nil {
				a.log.Debug("what tasks use was not taken", "error", err)
			}
		}
		cancel()
	}
}

// used is what the services' tasks that run used since they were last measured.
func (a *Agent) used(ctx context.Context, services []string) []protocol.TaskUsage {
	a.mu.Lock()
	var runners []*runner
	for _, r := range a.tasks {
		runners = append(runners, r)
	}
	a.mu.Unlock()
	var begun map[netip.Addr]uint64
	if a.cfg.Connections != nil {
		var err error
		if begun, err = a.cfg.Connections(); err != nil {
			a.log.Debug("connections were not counted", "error", err)
		}
	}
	var out []protocol.TaskUsage
	seen := map[string]bool{}
	for _, r := range runners {
		t, _, _ := r.now()
		id := r.runs()
		if id == "" || !slices.Contains(services, t.ServiceID) {
			continue
		}
		s, err := a.cfg.Engine.Stats(ctx, id)
		if err != nil || s.Read.IsZero() {
			continue // it ended meanwhile
		}
		seen[t.ID] = true
		if u, ok := a.meter.rate(t.ID, s, begunTo(t, begun), time.Now()); ok {
			out = append(out, u)
		}
	}
	for id := range a.meter.before {
		if !seen[id] {
			delete(a.meter.before, id)
		}
	}
	return out
}

// begunTo is how many connections were begun to the task.
func begunTo(t *cluster.Task, begun map[netip.Addr]uint64) (n uint64) {
	for _, at := range t.NetworksAttachments {
		for _, p := range at.Addresses {
			n += begun[p.Addr()]
		}
	}
	return n
}

// runs is the ID of the task's container while it runs.
func (r *runner) runs() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.status.State != swarm.TaskStateRunning || r.status.ContainerStatus == nil {
		return ""
	}
	return r.status.ContainerStatus.ContainerID
}
