// Package anywhere lets commands reach the containers of all nodes: `ps --swarm`, `events --swarm`, `top` without a
// container, and tasks by their IDs where docker/cli wants containers.
//
// It decides which nodes are asked and how their answers are put together. It never decides who may ask what: that is the
// daemon's part, which passes requests on to the node that their header names.
package anywhere

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/docker/cli/cli/command"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"shoal.dev/shoal/cmd/shoal/internal/daemon"
)

// atOnce is how many requests are under way at a time.
const atOnce = 32

// AddCommands puts flags into the commands of root.
func AddCommands(root *cobra.Command, cli command.Cli) {
	for path, add := range map[string]func(*cobra.Command, command.Cli){
		"ps": addPs, "container ls": addPs, "events": addEvents, "system events": addEvents, "top": addTop,
		"exec": addTasks, "container exec": addTasks, "logs": addTasks, "container logs": addTasks, "attach": addTasks, "container attach": addTasks,
	} {
		if c, _, err := root.Find(strings.Fields(path)); err == nil && c != root && c.RunE != nil {
			add(c, cli)
		}
	}
}

// member is a node of the swarm.
type member struct {
	id, name string
	down     string // why it is not asked, "" if it is
	memory   int64  // bytes
}

// members lists the nodes by their names.
func members(ctx context.Context, api client.APIClient) ([]member, error) {
	list, err := api.NodeList(ctx, client.NodeListOptions{})
	if err != nil {
		return nil, err
	}
	var out []member
	for _, n := range list.Items {
		m := member{id: n.ID, name: n.Description.Hostname, memory: n.Description.Resources.MemoryBytes}
		if m.name == "" {
			m.name = n.ID
		}
		if n.Status.State != swarm.NodeStateReady {
			m.down = string(n.Status.State)
		}
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b member) int { return strings.Compare(a.name+" "+a.id, b.name+" "+b.id) })
	return out, nil
}

// at is the API of a node.
func (m member) at(base client.APIClient) (*client.Client, error) {
	return daemon.Client(base, daemon.HeaderNode, m.id)
}

// warnDown names the nodes that are not asked.
func warnDown(cli command.Cli, list []member) {
	for _, m := range list {
		if m.down != "" {
			fmt.Fprintf(cli.Err(), "WARNING: node %s is %s: it is not asked\n", m.name, m.down)
		}
	}
}

// askAll calls ask for every node that is up, several at a time. What a node answers wrongly is in the error, with its
// name.
func askAll(ctx context.Context, cli command.Cli, list []member, ask func(context.Context, member, client.APIClient) error) error {
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	errs := make([]error, len(list))
	for i, m := range list {
		if m.down != "" {
			continue
		}
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			api, err := m.at(cli.Client())
			if err == nil {
				defer api.Close()
				err = ask(ctx, m, api)
			}
			if err != nil {
				errs[i] = fmt.Errorf("node %s: %w", m.name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// taskID is what may be the ID of a task, or the beginning that is printed of it, and cannot be that of a container.
var taskID = regexp.MustCompile(`^[0-9a-z]{0,24}[g-z][0-9a-z]{0,24}$`)

// addTasks lets a command whose first argument is a container take the ID of a task. The daemon cannot do that where a
// command inspects the container first: to Docker's `inspect` the ID of a task means the task.
func addTasks(c *cobra.Command, cli command.Cli) {
	run := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) > 0 && len(args[0]) >= 12 && len(args[0]) <= 25 && taskID.MatchString(args[0]) {
			t, err := cli.Client().TaskInspect(c.Context(), args[0], client.TaskInspectOptions{})
			if s := t.Task.Status.ContainerStatus; err == nil && s != nil && s.ContainerID != "" {
				args = append([]string{s.ContainerID}, args[1:]...)
			}
		}
		return run(c, args)
	}
}
