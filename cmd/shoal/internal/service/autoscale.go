package service

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"text/tabwriter"
	"time"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/spf13/cobra"

	"shoal.dev/shoal/cmd/shoal/internal/daemon"
)

// maxScale is how many bytes of an answer are read: ten decisions are some 1,500.
const maxScale = 1 << 20

// serviceScale is what the daemon answers; its fields are documented in internal/control.
type serviceScale struct {
	ServiceID, ServiceName    string
	Min, Max                  uint64
	CPU, Memory, Tolerance    float64
	Connections               float64
	UpWindow, DownWindow, Why string
	Replicas, Wanted          uint64
	ChangedAt                 time.Time
	Decisions                 []struct {
		At       time.Time
		From, To uint64
		Reason   string
	}
}

func newAutoscaleCommand(dockerCLI command.Cli) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "autoscale [OPTIONS] SERVICE",
		Short: "Show how a service is scaled by its usage",
		Long: `Show how a service is scaled by its usage: bounds, targets, what usage asks for now and why, and the last changes of
the number of replicas with their reasons.`,
		Args: cli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runAutoscale(cmd.Context(), dockerCLI, args[0], format)
		},
		Annotations:           daemon.OnManager(),
		DisableFlagsInUseLine: true,
	}
	daemon.FormatFlag(cmd, &format)
	return cmd
}

func runAutoscale(ctx context.Context, dockerCLI command.Cli, name, format string) error {
	var s serviceScale
	body, err := daemon.Read(ctx, dockerCLI, http.MethodGet, "/shoal/v1/services/"+url.PathEscape(name)+"/autoscale", maxScale, &s)
	if err != nil {
		return err
	}
	return daemon.Print(dockerCLI, format, body, s.print, s)
}

func (s *serviceScale) print(w io.Writer) {
	fmt.Fprintf(w, "Service:  %s\nReplicas: %d (from %d to %d)\n", s.ServiceName, s.Replicas, s.Min, s.Max)
	for _, t := range []struct {
		name    string
		percent float64
	}{{"CPU:     ", s.CPU}, {"Memory:  ", s.Memory}} {
		if t.percent > 0 {
			fmt.Fprintf(w, "%s to be %g%%\n", t.name, t.percent)
		}
	}
	if s.Connections > 0 {
		fmt.Fprintf(w, "Load:     to be %g new connections a second and task\n", s.Connections)
	}
	fmt.Fprintf(w, "Windows:  %s up, %s down\nNow:      %s\n\n", s.UpWindow, s.DownWindow, s.Why)
	t := tabwriter.NewWriter(w, 6, 1, 3, ' ', 0)
	fmt.Fprintln(t, "CHANGED\tFROM\tTO\tREASON")
	for i := len(s.Decisions) - 1; i >= 0; i-- {
		d := s.Decisions[i]
		fmt.Fprintf(t, "%s\t%d\t%d\t%s\n", stamp(d.At), d.From, d.To, d.Reason)
	}
	_ = t.Flush() // into memory
}
