package bench

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
)

// execs is how many commands one value is the mean of.
const execs = 10

// anywhere measures how long a command in a task's container takes until its first byte: asked on the container's own
// node, and through a manager on another one, which a peer may not be able to.
func anywhere(ctx context.Context, g *rig, r *Report, run int) error {
	one := uint64(1)
	made, err := g.clients[0].ServiceCreate(ctx, client.ServiceCreateOptions{Spec: swarm.ServiceSpec{
		Annotations:  swarm.Annotations{Name: fmt.Sprintf("anywhere%d", run)},
		TaskTemplate: swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{Image: shellImage, Command: []string{"sleep", "1000"}}},
		Mode:         swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &one}},
	}})
	if err != nil {
		return err
	}
	if err := g.running(ctx, 1, made.ID, 1, nil); err != nil {
		return err
	}
	tasks, err := g.clients[0].TaskList(ctx, client.TaskListOptions{Filters: make(client.Filters).Add("service", made.ID)})
	if err != nil || len(tasks.Items) != 1 {
		return fmt.Errorf("%d tasks: %w", len(tasks.Items), err)
	}
	id := tasks.Items[0].Status.ContainerStatus.ContainerID
	at := -1
	for i, c := range g.clients {
		info, err := c.Info(ctx, client.InfoOptions{})
		if err != nil {
			return err
		}
		if info.Info.Swarm.NodeID == tasks.Items[0].NodeID {
			at = i
		}
	}
	if at < 0 {
		return fmt.Errorf("no host is node %s", tasks.Items[0].NodeID)
	}
	for what, c := range map[string]*client.Client{"on its own node": g.clients[at], "through another manager": g.clients[(at+1)%len(g.clients)]} {
		var sum time.Duration
		for range execs {
			took, err := firstByte(ctx, c, id)
			if errdefs.IsNotFound(err) {
				sum = 0
				break
			}
			if err != nil {
				return err
			}
			sum += took
		}
		if sum > 0 {
			r.add("exec, first byte, "+what, "ms", ms(sum/execs))
		}
	}
	return g.remove(ctx, made.ID)
}

// firstByte runs a command that says something, and waits for that.
func firstByte(ctx context.Context, c *client.Client, id string) (time.Duration, error) {
	begin := time.Now()
	ex, err := c.ExecCreate(ctx, id, client.ExecCreateOptions{Cmd: []string{"echo", "x"}, AttachStdout: true})
	if err != nil {
		return 0, err
	}
	s, err := c.ExecAttach(ctx, ex.ID, client.ExecAttachOptions{})
	if err != nil {
		return 0, err
	}
	defer s.Close()
	_, err = s.Reader.ReadByte()
	return time.Since(begin), err
}
