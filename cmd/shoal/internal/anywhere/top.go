package anywhere

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/cli/cli/command"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"shoal.dev/shoal/cmd/shoal/internal/daemon"
)

// interval is the time between two samples, over which the use of processors is measured.
const interval = time.Second

// The labels of a task's container.
const (
	labelTaskName = "com.docker.swarm.task.name"
	labelService  = "com.docker.swarm.service.name"
)

// addTop makes `top` without a container show what the swarm uses.
func addTop(c *cobra.Command, dockerCLI command.Cli) {
	run := c.RunE
	c.Use = "top [OPTIONS] [CONTAINER [ps OPTIONS]]"
	c.Short = "Display the running processes of a container, or what the nodes, services and tasks of the swarm use"
	once := c.Flags().Bool("no-stream", false, "Without a container: print one result and end")
	var format string
	daemon.FormatFlag(c, &format)
	c.Args = nil
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) > 0 {
			return run(c, args)
		}
		if c.Flags().Changed("format") && !*once {
			return errors.New("--format wants --no-stream")
		}
		return top(c.Context(), dockerCLI, *once, format)
	}
}

// Use is what something uses now.
type Use struct {
	Name       string
	Node       string  `json:",omitempty"` // of a task
	Containers int     // that run
	CPU        float64 // percent of one processor
	Memory     int64   // bytes, without what the kernel can drop
	Limit      int64   // bytes of memory that there are; 0 for a service
	Received   int64   // bytes from networks since the containers began
	Sent       int64   // bytes
}

func (u *Use) add(o Use) {
	u.Containers++
	u.CPU += o.CPU
	u.Memory += o.Memory
	u.Received += o.Received
	u.Sent += o.Sent
}

// Table is what `top` shows.
type Table struct{ Nodes, Services, Tasks []Use }

// sample is what a container had used at a time.
type sample struct {
	labels map[string]string
	name   string
	node   member
	at     time.Time
	cpu    uint64 // nanoseconds
	use    Use
}

func top(ctx context.Context, dockerCLI command.Cli, once bool, format string) error {
	nodes, err := members(ctx, dockerCLI.Client())
	if err != nil {
		return err
	}
	warnDown(dockerCLI, nodes)
	before, _ := sampleAll(ctx, dockerCLI, nodes) // what fails is told of the second sample
	for {
		if err := pause(ctx, interval); err != nil {
			return err
		}
		if nodes, err = members(ctx, dockerCLI.Client()); err != nil {
			return err
		}
		now, failed := sampleAll(ctx, dockerCLI, nodes)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		t := tabulate(nodes, before, now)
		if once {
			body, err := json.Marshal(t)
			if err == nil {
				err = daemon.Print(dockerCLI, format, body, t.write, t)
			}
			return errors.Join(err, failed)
		}
		var screen bytes.Buffer
		if dockerCLI.Out().IsTerminal() {
			screen.WriteString("\x1b[H\x1b[2J") // as `stats` does
		}
		t.write(&screen)
		if failed != nil {
			fmt.Fprintln(&screen, "\n"+failed.Error())
		}
		if _, err := dockerCLI.Out().Write(screen.Bytes()); err != nil {
			return err
		}
		before = now
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// sampleAll asks every node once, by container.
func sampleAll(ctx context.Context, dockerCLI command.Cli, nodes []member) (map[string]sample, error) {
	var mu sync.Mutex
	out := map[string]sample{}
	err := askAll(ctx, dockerCLI, nodes, func(ctx context.Context, m member, api client.APIClient) error {
		list, err := api.ContainerList(ctx, client.ContainerListOptions{})
		if err != nil {
			return err
		}
		var wg sync.WaitGroup
		slots := make(chan struct{}, atOnce)
		errs := make([]error, len(list.Items))
		for i, c := range list.Items {
			wg.Go(func() {
				slots <- struct{}{}
				defer func() { <-slots }()
				s, err := sampleOne(ctx, api, c)
				if errdefs.IsNotFound(err) || errdefs.IsConflict(err) {
					return // it has ended meanwhile
				}
				s.node, errs[i] = m, err
				mu.Lock()
				defer mu.Unlock()
				out[c.ID] = s
			})
		}
		wg.Wait()
		return errors.Join(errs...)
	})
	return out, err
}

func sampleOne(ctx context.Context, api client.APIClient, c container.Summary) (sample, error) {
	s := sample{labels: c.Labels}
	if len(c.Names) > 0 {
		s.name = strings.TrimPrefix(c.Names[0], "/")
	}
	res, err := api.ContainerStats(ctx, c.ID, client.ContainerStatsOptions{})
	if err != nil {
		return s, err
	}
	defer res.Body.Close()
	var v container.StatsResponse
	if err := json.NewDecoder(res.Body).Decode(&v); err != nil {
		return s, err
	}
	s.at, s.cpu = v.Read, v.CPUStats.CPUUsage.TotalUsage
	droppable := v.MemoryStats.Stats["inactive_file"] // cgroup v2
	if n, ok := v.MemoryStats.Stats["total_inactive_file"]; ok {
		droppable = n
	}
	s.use.Memory, s.use.Limit = int64(v.MemoryStats.Usage-min(droppable, v.MemoryStats.Usage)), int64(v.MemoryStats.Limit)
	for _, n := range v.Networks {
		s.use.Received += int64(n.RxBytes)
		s.use.Sent += int64(n.TxBytes)
	}
	return s, nil
}

// tabulate adds up what was used between two samples.
func tabulate(list []member, before, now map[string]sample) Table {
	nodes, services := map[string]*Use{}, map[string]*Use{}
	for _, m := range list {
		if m.down == "" {
			nodes[m.id] = &Use{Name: m.name, Limit: m.memory}
		}
	}
	t := Table{Tasks: []Use{}}
	for id, s := range now {
		u := s.use
		if was, ok := before[id]; ok && s.at.After(was.at) && s.cpu >= was.cpu {
			u.CPU = 100 * float64(s.cpu-was.cpu) / float64(s.at.Sub(was.at))
		}
		if n := nodes[s.node.id]; n != nil {
			n.add(u)
		}
		service, isTask := s.labels[labelService]
		if !isTask {
			continue
		}
		if services[service] == nil {
			services[service] = &Use{Name: service}
		}
		services[service].add(u)
		u.Name, u.Node, u.Containers = s.labels[labelTaskName], s.node.name, 1
		t.Tasks = append(t.Tasks, u)
	}
	flat := func(m map[string]*Use) []Use {
		out := []Use{}
		for _, u := range slices.SortedFunc(maps.Values(m), func(a, b *Use) int { return strings.Compare(a.Name, b.Name) }) {
			out = append(out, *u)
		}
		return out
	}
	t.Nodes, t.Services = flat(nodes), flat(services)
	slices.SortFunc(t.Tasks, func(a, b Use) int { return cmp.Or(cmp.Compare(b.CPU, a.CPU), strings.Compare(a.Name, b.Name)) })
	return t
}

// write prints the table for people; of tasks the busiest come first.
func (t Table) write(w io.Writer) {
	tw := tabwriter.NewWriter(w, 0, 1, 3, ' ', 0)
	part := func(head string, list []Use, mid func(Use) string) {
		fmt.Fprintf(tw, "%s\tCPU %%\tMEM USAGE / LIMIT\tNET I/O\n", head)
		for _, u := range list {
			memory := units.BytesSize(float64(u.Memory))
			if u.Limit > 0 {
				memory += " / " + units.BytesSize(float64(u.Limit))
			}
			fmt.Fprintf(tw, "%s\t%s\t%.2f%%\t%s\t%s / %s\n", u.Name, mid(u), u.CPU, memory,
				units.HumanSizeWithPrecision(float64(u.Received), 3), units.HumanSizeWithPrecision(float64(u.Sent), 3))
		}
		tw.Flush()
	}
	count := func(u Use) string { return fmt.Sprint(u.Containers) }
	part("NODE\tCONTAINERS", t.Nodes, count)
	fmt.Fprintln(w)
	part("SERVICE\tTASKS", t.Services, count)
	fmt.Fprintln(w)
	part("TASK\tNODE", t.Tasks, func(u Use) string { return u.Node })
}
