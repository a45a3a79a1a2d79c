package service

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"shoal.dev/shoal/cmd/shoal/internal/daemon"
)

// maxExplanation is how many bytes of an answer are read: a node is some 300.
const maxExplanation = 64 << 20

// explanation is what the daemon answers; its fields are documented in internal/cluster.
type explanation struct {
	ServiceID, ServiceName string
	Rebalancing            bool
	Nodes                  []node
	Waiting                []struct {
		Reason string
		Tasks  []string
	}
	Failures []failure
}

type node struct {
	ID, Hostname, Filter, Refusal string
	Rank                          int
	Score                         struct {
		Failures   int
		Avoided    bool
		Spread     []group
		Own, Tasks int
	}
}

type group struct {
	Label, Value string
	Tasks        int
}

type failure struct {
	NodeID, Hostname, State, Err string
	ExitCode, Count              int
	Last                         time.Time
	LastTask                     string
}

func newExplainCommand(dockerCLI command.Cli) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "explain [OPTIONS] SERVICE",
		Short: "Show why a service's tasks run where they do, wait or fail",
		Long: `Show where the scheduler would put the service's next task and how every node scored, which nodes are refused and
why, why tasks wait, and how tasks failed lately.`,
		Args: cli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runExplain(cmd.Context(), dockerCLI, args[0], format)
		},
		Annotations:           daemon.OnManager(),
		DisableFlagsInUseLine: true,
	}
	daemon.FormatFlag(cmd, &format)
	return cmd
}

func runExplain(ctx context.Context, dockerCLI command.Cli, name, format string) error {
	e, body, err := ask(ctx, dockerCLI, name)
	if err != nil {
		return err
	}
	return daemon.Print(dockerCLI, format, body, func(w io.Writer) { e.table(w, time.Now()) }, e)
}

// ask asks the daemon for a service's explanation.
func ask(ctx context.Context, dockerCLI command.Cli, name string) (*explanation, []byte, error) {
	var e explanation
	body, err := daemon.Read(ctx, dockerCLI, http.MethodGet, "/shoal/v1/services/"+url.PathEscape(name)+"/explain", maxExplanation, &e)
	return &e, body, err
}

func (e *explanation) table(w io.Writer, now time.Time) {
	t := tabwriter.NewWriter(w, 6, 1, 3, ' ', 0)
	fmt.Fprintln(t, "NODE\tRANK\tOF SERVICE\tOF ALL\tSPREAD\tWHY NOT")
	for _, n := range e.Nodes {
		rank, why := fmt.Sprint(n.Rank), n.Refusal
		if n.Rank == 0 {
			rank = "-"
		}
		if n.Score.Avoided {
			why = strings.TrimPrefix(why+"; taken last: "+fmt.Sprint(n.Score.Failures)+" failures in 5 minutes", "; ")
		}
		var spread []string
		for _, g := range n.Score.Spread {
			spread = append(spread, fmt.Sprintf("%s=%s: %d", g.Label, g.Value, g.Tasks))
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%s\t%s\n", n.name(), rank, n.Score.Own, n.Score.Tasks, strings.Join(spread, ", "), why)
	}
	_ = t.Flush() // into memory
	if len(e.Waiting) > 0 {
		fmt.Fprintln(w, "\nWaiting:")
	}
	for _, r := range e.Waiting {
		fmt.Fprintf(w, "  %s: %s\n", count(len(r.Tasks), "task"), r.Reason)
	}
	if len(e.Failures) > 0 {
		fmt.Fprintln(w, "\nFailures:")
	}
	for _, f := range e.Failures {
		where := f.Hostname
		if where == "" {
			where = f.NodeID
		}
		fmt.Fprintf(w, "  %s: %s on %s, last %s ago", count(f.Count, "task"), f.State, where, units.HumanDuration(now.Sub(f.Last)))
		if f.ExitCode != 0 {
			fmt.Fprintf(w, ", exit code %d", f.ExitCode)
		}
		fmt.Fprintf(w, ": %s\n", f.Err)
	}
}

func (n *node) name() string {
	if n.Hostname != "" {
		return n.Hostname
	}
	return n.ID
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
