package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"

	"shoal.dev/shoal/lab"
)

// rig is the hosts of one side in a lab, and a client of each host's Engine API. Hosts are numbered from 1 on each side.
type rig struct {
	lab     *lab.Lab
	base    int              // how many hosts of the lab stand before this side's first
	clients []*client.Client // of host 1, 2, …
}

// newRigs makes a lab with as many hosts for each side, with the image on each and, with managers, a swarm a side.
func newRigs(ctx context.Context, l *lab.Lab, sides []Side, m measurement) ([]*rig, error) {
	o := lab.Options{Nodes: m.nodes * len(sides), LogLevel: "warn", Daemons: map[int]string{}}
	for i, s := range sides {
		for n := 1; n <= m.nodes; n++ {
			o.Daemons[i*m.nodes+n] = s.Daemon
		}
	}
	if err := l.Up(ctx, o); err != nil {
		return nil, err
	}
	var rigs []*rig
	for i, s := range sides {
		r := &rig{lab: l, base: i * m.nodes}
		rigs = append(rigs, r)
		if err := r.fill(ctx, m); err != nil {
			return rigs, fmt.Errorf("%s: %w", s.Name, err)
		}
	}
	return rigs, nil
}

// fill connects to the side's hosts and brings them to where the measurement begins.
func (r *rig) fill(ctx context.Context, m measurement) error {
	for n := 1; n <= m.nodes; n++ {
		c, err := r.newClient(n)
		if err != nil {
			return err
		}
		r.clients = append(r.clients, c)
		for _, image := range []string{helloImage, shellImage} {
			if err := pull(ctx, c, image); err != nil {
				return err
			}
		}
	}
	if m.managers == 0 {
		return nil
	}
	first := r.host(1).Addr
	if _, err := r.clients[0].SwarmInit(ctx, client.SwarmInitOptions{AdvertiseAddr: first, ListenAddr: "0.0.0.0:2377"}); err != nil {
		return err
	}
	sw, err := r.clients[0].SwarmInspect(ctx, client.SwarmInspectOptions{})
	if err != nil {
		return err
	}
	for n := 2; n <= m.nodes; n++ {
		token := sw.Swarm.JoinTokens.Worker
		if n <= m.managers {
			token = sw.Swarm.JoinTokens.Manager
		}
		o := client.SwarmJoinOptions{JoinToken: token, RemoteAddrs: []string{first + ":2377"}, ListenAddr: "0.0.0.0:2377"}
		if _, err := r.clients[n-1].SwarmJoin(ctx, o); err != nil {
			return fmt.Errorf("%s joins: %w", r.host(n).Name, err)
		}
	}
	// A first service shows that every node runs tasks.
	id, err := r.create(ctx, 1, "first", uint64(2*m.nodes))
	if err != nil {
		return err
	}
	if err := r.running(ctx, 1, id, 2*m.nodes, nil); err != nil {
		return err
	}
	return r.remove(ctx, id)
}

func (r *rig) host(n int) lab.Host { return r.lab.Host(r.base + n) }

// pull brings an image of the lab's registry to a host.
func pull(ctx context.Context, c *client.Client, image string) error {
	p, err := c.ImagePull(ctx, image, client.ImagePullOptions{})
	if err != nil {
		return fmt.Errorf("pull %s: %w", image, err)
	}
	if err := p.Wait(ctx); err != nil {
		return fmt.Errorf("pull %s: %w", image, err)
	}
	return nil
}

// newClient returns a client of host n with connections of its own.
func (r *rig) newClient(n int) (*client.Client, error) {
	return client.New(client.WithHost("unix://" + r.host(n).Socket))
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
	res, err := c.ServiceCreate(ctx, client.ServiceCreateOptions{Spec: replicated(name, replicas)})
	return res.ID, err
}

func replicated(name string, replicas uint64) swarm.ServiceSpec {
	return swarm.ServiceSpec{
		Annotations:  swarm.Annotations{Name: name},
		TaskTemplate: swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{Image: helloImage}},
		Mode:         swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &replicas}},
	}
}

// running waits until count tasks of a service run on nodes that are not lost.
func (r *rig) running(ctx context.Context, at int, service string, count int, lost map[string]bool) error {
	return r.runningOf(ctx, at, client.Filters{}.Add("service", service), count, lost)
}

// runningOf is running for the tasks that a filter lets through.
func (r *rig) runningOf(ctx context.Context, at int, f client.Filters, count int, lost map[string]bool) error {
	return poll(ctx, pace(count), func() error {
		res, err := r.clients[at-1].TaskList(ctx, client.TaskListOptions{Filters: f})
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
	return r.emptied(ctx, "com.docker.swarm.service.id="+service)
}

// emptied waits until no host has a container with the label.
func (r *rig) emptied(ctx context.Context, label string) error {
	for i, c := range r.clients {
		err := poll(ctx, 20*time.Millisecond, func() error {
			res, err := c.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("label", label)})
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
			if node.Description.Hostname == r.host(n).Name {
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
				leader -= r.base
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

// daemons are the processes that are the engine of host n: the daemon, and a containerd that it started for itself.
func (r *rig) daemons(n int) ([]int, error) {
	pid, err := r.lab.DaemonPID(r.base + n)
	if err != nil {
		return nil, err
	}
	pids := []int{pid}
	children, err := childrenOf(pid)
	if err != nil {
		return nil, err
	}
	for _, f := range children {
		child, err := strconv.Atoi(f)
		if err != nil {
			return nil, err
		}
		if name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", child)); strings.TrimSpace(string(name)) == "containerd" {
			pids = append(pids, child)
		}
	}
	return pids, nil
}

// childrenOf are the children of all threads of a process.
func childrenOf(pid int) ([]string, error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return nil, err
	}
	var all []string
	for _, t := range threads {
		data, err := os.ReadFile(t)
		if err != nil {
			continue // the thread has ended
		}
		all = append(all, strings.Fields(string(data))...)
	}
	return all, nil
}

// daemonCPU is the CPU time that all daemons of the side have used.
func (r *rig) daemonCPU() (time.Duration, error) {
	var sum time.Duration
	for n := range r.clients {
		pids, err := r.daemons(n + 1)
		if err != nil {
			return 0, err
		}
		for _, pid := range pids {
			used, err := CPUTime(pid)
			if err != nil {
				return 0, err
			}
			sum += used
		}
	}
	return sum, nil
}

// CPUTime is the CPU time that a process has used, in steps of 10 ms.
func CPUTime(pid int) (sum time.Duration, err error) {
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
	return sum, nil
}

// daemonPSS is the memory in MB of the engine of host n.
func (r *rig) daemonPSS(n int) (float64, error) {
	pids, err := r.daemons(n)
	if err != nil {
		return 0, err
	}
	var sum float64
	for _, pid := range pids {
		mb, err := PSS(pid)
		if err != nil {
			return 0, err
		}
		sum += mb
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

// PSS is the memory of a process in MB, its part of what it shares included.
func PSS(pid int) (float64, error) {
	var kb float64
	v := field(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Pss")
	if _, err := fmt.Sscanf(v, "%f", &kb); err != nil {
		return 0, fmt.Errorf("memory of process %d: %q", pid, v)
	}
	return kb / 1024, nil
}
