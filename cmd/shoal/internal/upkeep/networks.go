package upkeep

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"text/tabwriter"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/spf13/cobra"

	"shoal.dev/shoal/cmd/shoal/internal/daemon"
)

// exitDiffers is the exit code of `network check` where something differs or a node does not answer.
const exitDiffers = 1

// maxCheck is how many bytes of an answer are read: 200 networks on 100 nodes are some 4 MB.
const maxCheck = 256 << 20

// networkCheck is what the daemon answers; its fields are documented in internal/httpapi.
type networkCheck struct {
	Networks     []networkOnNode
	Silent, Down []silentNode
}

type networkOnNode struct {
	ID, Name, NodeID, Hostname string
	Differences                []string
}

type silentNode struct{ NodeID, Hostname, Why string }

func newCheckCommand(dockerCLI command.Cli) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "check [OPTIONS] [NETWORK]",
		Short: "Compare the swarm's networks with what its nodes have",
		Long: `Compare what the swarm's records say of its networks with what each node was told and with the node's kernel: routes,
neighbours, forwarding entries, rules and interfaces. What is missing in a kernel is said, and repaired, as it is by itself
within seconds. Each network on each node is a line that says "ok", or one for each difference.

The exit code is 0 if all agree, 1 if anything differs or a node that is not down does not answer.`,
		Args: cli.RequiresMaxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref := ""
			if len(args) > 0 {
				ref = args[0]
			}
			return runCheck(cmd.Context(), dockerCLI, ref, format)
		},
		Annotations:           daemon.OnManager(),
		DisableFlagsInUseLine: true,
	}
	daemon.FormatFlag(cmd, &format)
	return cmd
}

func runCheck(ctx context.Context, dockerCLI command.Cli, ref, format string) error {
	var n networkCheck
	body, err := daemon.Read(ctx, dockerCLI, http.MethodGet, "/shoal/v1/networks/check?network="+url.QueryEscape(ref), maxCheck, &n)
	if err != nil {
		return err
	}
	values := make([]any, len(n.Networks))
	for i := range n.Networks {
		values[i] = n.Networks[i]
	}
	if err := daemon.Print(dockerCLI, format, body, n.table, values...); err != nil {
		return err
	}
	differ := len(n.Silent) > 0
	for _, at := range n.Networks {
		differ = differ || len(at.Differences) > 0
	}
	if differ {
		return cli.StatusError{StatusCode: exitDiffers}
	}
	return nil
}

func (n *networkCheck) table(w io.Writer) {
	t := tabwriter.NewWriter(w, 10, 1, 3, ' ', 0)
	fmt.Fprintln(t, "NETWORK\tNODE\tSTATE")
	for _, at := range n.Networks {
		name := at.Name
		if name == "" {
			name = "(of the node)"
		}
		if len(at.Differences) == 0 {
			fmt.Fprintf(t, "%s\t%s\tok\n", name, at.Hostname)
		}
		for _, d := range at.Differences {
			fmt.Fprintf(t, "%s\t%s\t%s\n", name, at.Hostname, d)
		}
	}
	for _, s := range n.Silent {
		fmt.Fprintf(t, "\t%s\tdoes not answer: %s\n", s.Hostname, s.Why)
	}
	for _, s := range n.Down {
		fmt.Fprintf(t, "\t%s\tis down and was not asked\n", s.Hostname)
	}
	_ = t.Flush() // into memory
}
