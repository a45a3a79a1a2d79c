// Package stack adds Shoal's own commands to `stack`: history, rollback, diff and logs, and --wait to deploy and rm.
//
// It decides what a revision of a stack is and when a stack has settled. A revision is a config of the swarm's, as any
// other, so that every manager has it and `stack rm` of any client removes it. How a Compose file becomes services is
// docker/cli's part, and what a change of them does the daemon's.
package stack

import (
	"context"
	"fmt"
	"time"

	"github.com/docker/cli/cli/compose/convert"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"shoal.dev/shoal/cmd/shoal/internal/daemon"
	"shoal.dev/shoal/cmd/shoal/internal/dryrun"
)

// defaultTimeout is how long --wait waits unless it is told otherwise: longer than images take that have to be pulled.
const defaultTimeout = 5 * time.Minute

// AddCommands puts the commands below root's `stack`.
func AddCommands(root *cobra.Command, cli *dryrun.Cli) {
	for _, c := range root.Commands() {
		if c.Name() != "stack" {
			continue
		}
		for _, sub := range c.Commands() {
			switch sub.Name() {
			case "config":
				adaptFiles(sub, cli)
			case "deploy":
				adaptFiles(sub, cli)
				recordDeploys(sub, cli)
				waitForDeploys(sub, cli)
			case "rm":
				waitForRemovals(sub, cli)
			}
		}
		c.AddCommand(newHistoryCommand(cli), newRollbackCommand(cli), newDiffCommand(cli), newLogsCommand(cli))
	}
}

// ofStack filters what belongs to a stack.
func ofStack(name string) client.Filters {
	return make(client.Filters).Add("label", convert.LabelNamespace+"="+name)
}

// services are the stack's, by name.
func services(ctx context.Context, api client.APIClient, stack string) (map[string]swarm.Service, error) {
	list, err := api.ServiceList(ctx, client.ServiceListOptions{Filters: ofStack(stack), Status: true})
	if err != nil {
		return nil, err
	}
	out := map[string]swarm.Service{}
	for _, s := range list.Items {
		out[s.Spec.Name] = s
	}
	return out, nil
}

func nothing(stack string) error { return fmt.Errorf("nothing found in stack: %s", stack) }

// own are the marks of a command that the stack command of docker/cli has, too.
func own(c *cobra.Command) *cobra.Command {
	c.Annotations, c.DisableFlagsInUseLine = daemon.OnManager(), true
	return c
}

// poll asks until it is told that it is done, or ctx ends.
func poll(ctx context.Context, every time.Duration, done func() (bool, error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if ok, err := done(); ok || err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
