package upkeep

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"shoal.dev/shoal/cmd/shoal/internal/daemon"
)

// The exit codes of `swarm health`, for monitoring.
const (
	exitDegraded = 1
	exitNoQuorum = 2
	exitUnknown  = 3
)

// maxHealth is how many bytes of an answer are read: a manager is some 500.
const maxHealth = 1 << 20

// health is what the daemon answers; its fields are documented in internal/httpapi.
type health struct {
	Status                               string
	Reasons                              []string
	Leader                               string
	Epoch                                uint64
	Voters, Quorum, Reachable, Tolerance int
	Managers                             []managerHealth
}

type managerHealth struct {
	ID, Hostname, Addr       string
	Voter, Leader, Reachable bool
	Lag                      uint64
	LastContact              time.Duration
	CertificateNotAfter      time.Time
	CertificateLate          bool
	DiskFree, DiskTotal      uint64
	ClockOffset              time.Duration
}

func newHealthCommand(dockerCLI command.Cli) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "health [OPTIONS]",
		Short: "Show how the swarm's managers are",
		Long: `Show how the swarm's managers are, as the asked one sees them: who leads, who can be reached, how many may still be
lost, how far behind each is, when its certificate ends and how much of its disk is free. It works without a majority.

The exit code is for monitoring: 0 all is well, 1 something is wrong and changes are accepted, 2 the majority or the
leader is missing and changes are refused, 3 it is not known.`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runHealth(cmd.Context(), dockerCLI, format)
		},
		Annotations:           daemon.OnManager(),
		DisableFlagsInUseLine: true,
	}
	daemon.FormatFlag(cmd, &format)
	return cmd
}

func runHealth(ctx context.Context, dockerCLI command.Cli, format string) error {
	unknown := func(err error) error { return cli.StatusError{StatusCode: exitUnknown, Status: err.Error()} }
	var h health
	body, err := daemon.Read(ctx, dockerCLI, http.MethodGet, "/shoal/v1/swarm/health", maxHealth, &h)
	if err == nil {
		err = daemon.Print(dockerCLI, format, body, func(w io.Writer) { h.table(w, time.Now()) }, h)
	}
	if err != nil {
		return unknown(err)
	}
	switch h.Status {
	case "ok":
		return nil
	case "no quorum":
		return cli.StatusError{StatusCode: exitNoQuorum}
	}
	return cli.StatusError{StatusCode: exitDegraded}
}

func (h *health) table(w io.Writer, now time.Time) {
	fmt.Fprintf(w, "Status: %s\n", h.Status)
	for _, r := range h.Reasons {
		fmt.Fprintf(w, "  %s\n", r)
	}
	fmt.Fprintf(w, "Managers: %d of %d reachable, %d needed, %d may be lost\n\n", h.Reachable, h.Voters, h.Quorum, h.Tolerance)
	t := tabwriter.NewWriter(w, 10, 1, 3, ' ', 0)
	fmt.Fprintln(t, "HOSTNAME\tADDRESS\tSTATUS\tLAG\tLAST CONTACT\tCERTIFICATE\tDISK FREE")
	for _, m := range h.Managers {
		cells := []string{m.Hostname, m.Addr, m.status(), "", "", "", ""}
		if m.Reachable {
			cells[3], cells[4] = fmt.Sprint(m.Lag), "never"
			if m.LastContact >= 0 {
				cells[4] = m.LastContact.Round(time.Millisecond).String()
			}
			cells[5] = "expired"
			if left := m.CertificateNotAfter.Sub(now); left > 0 {
				cells[5] = units.HumanDuration(left)
			}
			if m.DiskTotal > 0 {
				cells[6] = fmt.Sprintf("%s (%d%%)", units.HumanSize(float64(m.DiskFree)), 100*m.DiskFree/m.DiskTotal)
			}
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	_ = t.Flush() // into memory
}

func (m *managerHealth) status() string {
	switch {
	case !m.Reachable:
		return "Unreachable"
	case m.Leader:
		return "Leader"
	case !m.Voter:
		return "Catching up"
	}
	return "Reachable"
}
