package stack

import (
	"fmt"

	"github.com/docker/cli/cli"
	"github.com/spf13/cobra"

	"shoal.dev/shoal/cmd/shoal/internal/dryrun"
)

func newRollbackCommand(dockerCLI *dryrun.Cli) *cobra.Command {
	var to int
	cmd := own(&cobra.Command{
		Use:   "rollback [OPTIONS] STACK",
		Short: "Make a stack what it was at a previous revision",
		Long: `Make a stack what it was at a previous revision: services are updated, each by its own update policy, made, and
removed. That is a new revision, so that a rollback can be rolled back.

Networks, secrets and configs that a service of the revision uses must be there still.`,
		Args: cli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stack := cmd.Context(), args[0]
			all, err := revisions(ctx, dockerCLI.Client(), stack)
			if err != nil {
				return err
			}
			switch {
			case len(all) == 0:
				return noRevision(stack)
			case to == 0 && len(all) == 1:
				return fmt.Errorf("stack %s has one revision only: there is nothing to go back to", stack)
			case to == 0:
				to = all[len(all)-2].number
			}
			r, err := pick(stack, all, to)
			if err != nil {
				return err
			}
			if err := apply(ctx, dockerCLI, stack, r); err != nil {
				return err
			}
			if dockerCLI.Trying() {
				return nil
			}
			return record(ctx, dockerCLI.Client(), stack, r.Files)
		},
	})
	cmd.Flags().IntVar(&to, "to", 0, "Number of the revision, see 'stack history' (default: the one before the last)")
	return cmd
}

// actions are those of the way back.
var actions = map[string]string{"create": "remove", "remove": "create", "update": "update"}

func newDiffCommand(dockerCLI *dryrun.Cli) *cobra.Command {
	var since int
	cmd := own(&cobra.Command{
		Use:   "diff [OPTIONS] STACK",
		Short: "Show what has changed in a stack since it was deployed",
		Long: `Show what somebody has changed in a stack's services since its last revision, field by field: from what was deployed
to what is there.

The exit code is 0 if nothing has changed, 2 if something has. 'stack plan' compares with a file.`,
		Args: cli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			stack := args[0]
			all, err := revisions(cmd.Context(), dockerCLI.Client(), stack)
			if err != nil {
				return err
			}
			if len(all) == 0 {
				return noRevision(stack)
			}
			if since == 0 {
				since = all[len(all)-1].number
			}
			r, err := pick(stack, all, since)
			if err != nil {
				return err
			}
			changes, err := dockerCLI.Try(cmd, args, func(cmd *cobra.Command, _ []string) error {
				return apply(cmd.Context(), dockerCLI, stack, r)
			})
			if err != nil {
				return err
			}
			for i := range changes { // they are those of the way back
				c := &changes[i]
				c.Action, c.Tasks = actions[c.Action], nil
				for j, f := range c.Fields {
					c.Fields[j].From, c.Fields[j].To = f.To, f.From
				}
			}
			dryrun.Show(dockerCLI.Out(), changes, dryrun.Done)
			if len(changes) > 0 {
				return cli.StatusError{StatusCode: dryrun.ExitChanges}
			}
			return nil
		},
	})
	cmd.Flags().IntVar(&since, "since", 0, "Number of the revision to compare with, see 'stack history' (default: the last)")
	return cmd
}
