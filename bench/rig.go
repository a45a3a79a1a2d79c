package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"

	"shoal.dev/shoal/lab"
)

// rig is a lab with a swarm and a client of each host's Engine API.
type rig struct {
	*lab.Lab
	clients []*client.Client // of host 1, 2, …
}

// newRig makes a lab with a swarm whose first hosts are managers, with the image on every node.
func newRig(ctx context.Context, l *lab.Lab, nodes, managers int) (*rig, error) {
	if err := l.Up(ctx, lab.Options{Nodes: nodes, LogLevel: "warn"}); err != nil {
		return nil, err
	}
	r := &rig{Lab: l}
	for n := 1; n <= nodes; n++ {
		c, err := r.newClient(n)
		if err != nil {
			return nil, err
		}
		r.clients = append(r.clients, c)
	}
	first := l.Host(1).Addr
	if _, err := r.clients[0].SwarmInit(ctx, client.SwarmInitOptions{AdvertiseAddr: first, ListenAddr: "0.0.0.0:2377"}); err != nil {
		return nil, err
	}
	sw, err := r.clients[0].SwarmInspect(ctx, client.SwarmInspectOptions{})
	if err != nil {
		return nil, err
	}
	for n := 2; n <= nodes; n++ {
		token := sw.Swarm.JoinTokens.Worker
		if n <= managers {
			token = sw.Swarm.JoinTokens.Manager
		}
		o := client.SwarmJoinOptions{JoinToken: token, RemoteAddrs: []string{first + ":2377"}, ListenAddr: "0.0.0.0:2377"}
		if _, err := r.clients[n-1].SwarmJoin(ctx, o); err != nil {
			return nil, fmt.Errorf("node%d joins: %w", n, err)
		}
	}
	// A first service brings the image to every node.
	id, err := r.create(ctx, 1, "first", uint64(2*nodes))
	if err != nil {
		return nil, err
	}
	if err := r.running(ctx, 1, id, 2*nodes, nil); err != nil {
		return nil, err
	}
	return r, r.remove(ctx, id)
}

// newClient returns a client of host n with connections of its own.
func (r *rig) newClient(n int) (*client.Client, error) {
	return client.New(client.WithHost("unix://" + r.Host(n).Socket))
}

func (r *rig) close() {
	for _, c := range r.clients {
		c.Close()
	}
}

// create makes a service through host n and returns its ID.
func (r *rig) create(ctx context.Context, n int, name string, replicas uint64) (string, error) {
	return create(ctx, r.clients[n-1], name, replicas)
}

func create(ctx context.Context, c *client.Client, name string, replicas uint64) (string, error) {
	res, err := c.ServiceCreate(ctx, client.ServiceCreateOptions{Spec: swarm.ServiceSpec{
		Annotations:  swarm.Annotations{Name: name},
		TaskTemplate: swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{Image: "hello:1"}},
		Mode:         swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &replicas}},
	}})
	return res.ID, err
}

// running waits until count tasks of a service run on nodes that are not lost.
func (r *rig) running(ctx context.Context, at int, service string, count int, lost map[string]bool) error {
	return poll(ctx, pace(count), func() error {
		res, err := r.clients[at-1].TaskList(ctx, client.TaskListOptions{Filters: client.Filters{}.Add("service", service)})
		if err != nil {
			return err
		}
		on := 0
		for _, t := range res.Items {
			if t.Status.State == swarm.TaskStateRunning && t.DesiredState == swarm.TaskStateRunning && !lost[t.NodeID] {
				on++
			}
		}
		if on != count {
			return fmt.Errorf("%d of %d tasks run", on, count)
		}
		return nil
	})
}

// remove removes a service and waits until no host has a container of it.
func (r *rig) remove(ctx context.Context, service string) error {
	if _, err := r.clients[0].ServiceRemove(ctx, service, client.ServiceRemoveOptions{}); err != nil {
		return err
	}
	for i, c := range r.clients {
		err := poll(ctx, 20*time.Millisecond, func() error {
			res, err := c.ContainerList(ctx, client.ContainerListOptions{All: true,
				Filters: client.Filters{}.Add("label", "com.docker.swarm.service.id="+service)})
			if err == nil && len(res.Items) > 0 {
				err = fmt.Errorf("%d containers are left on node%d", len(res.Items), i+1)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// nodeIs waits until the node of host n has a state, as host at sees it, and returns its ID.
func (r *rig) nodeIs(ctx context.Context, at, n int, state swarm.NodeState) (string, error) {
	var id string
	err := poll(ctx, 20*time.Millisecond, func() error {
		res, err := r.clients[at-1].NodeList(ctx, client.NodeListOptions{})
		if err != nil {
			return err
		}
		for _, node := range res.Items {
			if node.Description.Hostname == r.Host(n).Name {
				id = node.ID
				if node.Status.State == state {
					return nil
				}
				return fmt.Errorf("node%d is %s", n, node.Status.State)
			}
		}
		return fmt.Errorf("there is no node%d", n)
	})
	return id, err
}

// leader returns the number of the host that leads the managers.
func (r *rig) leader(ctx context.Context) (int, error) {
	leader := 0
	err := poll(ctx, 20*time.Millisecond, func() error {
		res, err := r.clients[0].NodeList(ctx, client.NodeListOptions{})
		if err != nil {
			return err
		}
		for _, node := range res.Items {
			if node.ManagerStatus != nil && node.ManagerStatus.Leader {
				_, err := fmt.Sscanf(node.Description.Hostname, "node%d", &leader)
				return err
			}
		}
		return errors.New("no leader")
	})
	return leader, err
}

// pace is how often to ask about so many tasks: often enough for a figure to two places, and so that asking costs
// little beside what is measured.
func pace(tasks int) time.Duration { return time.Duration(5+tasks) * time.Millisecond }

// poll asks cond until it returns nil or ctx ends; then it returns what cond last said.
func poll(ctx context.Context, every time.Duration, cond func() error) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var last error
	for {
		err := cond()
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), last)
		case <-tick.C:
		}
	}
}

// clockTick is the kernel's unit of CPU time in /proc, 1/100 s on every architecture that Linux has (proc_pid_stat(5)).
const clockTick = 10 * time.Millisecond

// daemonCPU is the CPU time that all daemons have used.
func (r *rig) daemonCPU() (time.Duration, error) {
	var sum time.Duration
	for n := range r.clients {
		pid, err := r.DaemonPID(n + 1)
		if err != nil {
			return 0, err
		}
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, err
		}
		_, after, _ := strings.Cut(string(data), ") ")
		f := strings.Fields(after)
		for _, i := range []int{11, 12} { // utime, stime
			ticks, err := strconv.Atoi(f[i])
			if err != nil {
				return 0, err
			}
			sum += time.Duration(ticks) * clockTick
		}
	}
	return sum, nil
}

// machineCPU is the CPU time that the whole machine has used: daemons, shims, runc, containers, and us.
func machineCPU() (time.Duration, error) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(data), "\n")
	var sum time.Duration
	for i, f := range strings.Fields(line)[1:] {
		ticks, err := strconv.Atoi(f)
		if err != nil {
			return 0, err
		}
		// user nice system idle iowait irq softirq; what follows is counted in these or stolen
		if i < 7 && i != 3 && i != 4 {
			sum += time.Duration(ticks) * clockTick
		}
	}
	return sum, nil
}

// pss is the memory of a process in MB, its part of what it shares included.
func pss(pid int) (float64, error) {
	var kb float64
	v := field(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Pss")
	if _, err := fmt.Sscanf(v, "%f", &kb); err != nil {
		return 0, fmt.Errorf("memory of process %d: %q", pid, v)
	}
	return kb / 1024, nil
}
