package service

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/spf13/cobra"

	"shoal.dev/shoal/cmd/shoal/internal/daemon"
)

// rebalancePoll is how often it is asked whether a service is balanced.
const rebalancePoll = 300 * time.Millisecond

func newRebalanceCommand(dockerCLI command.Cli) *cobra.Command {
	var detach bool
	cmd := &cobra.Command{
		Use:   "rebalance [OPTIONS] SERVICE [SERVICE...]",
		Short: "Move tasks of services to nodes that have fewer of them",
		Long: `Move tasks of replicated services until they are spread over the nodes as new ones would be. As many tasks move at a
time as the service's update parallelism says, each one's successor first unless the update order is stop-first.

A service with the label shoal.rebalance=auto does so by itself when a node joins or comes back.`,
		Args: cli.RequiresMinArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var errs []error
			for _, name := range args {
				if err := runRebalance(cmd.Context(), dockerCLI, name, detach); err != nil {
					errs = append(errs, err)
				}
			}
			return errors.Join(errs...)
		},
		Annotations:           daemon.OnManager(),
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().BoolVarP(&detach, "detach", "d", false, "Exit immediately instead of waiting for the service to be balanced")
	return cmd
}

func runRebalance(ctx context.Context, dockerCLI command.Cli, name string, detach bool) error {
	resp, err := daemon.Ask(ctx, dockerCLI, http.MethodPost, "/shoal/v1/services/"+url.PathEscape(name)+"/rebalance", "", nil)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if detach {
		fmt.Fprintln(dockerCLI.Out(), name)
		return nil
	}
	said := ""
	tick := time.NewTicker(rebalancePoll)
	defer tick.Stop()
	for {
		e, _, err := ask(ctx, dockerCLI, name)
		if err != nil {
			return err
		}
		if !e.Rebalancing {
			fmt.Fprintf(dockerCLI.Out(), "%s balanced\n", name)
			return nil
		}
		for _, w := range e.Waiting { // it waits for these, which may take long
			if w.Reason != said {
				said = w.Reason
				fmt.Fprintf(dockerCLI.Err(), "%s: waiting for %s: %s\n", name, count(len(w.Tasks), "task"), w.Reason)
			}
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
