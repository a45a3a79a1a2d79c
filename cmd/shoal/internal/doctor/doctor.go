// Package doctor adds the command `shoal doctor`, which examines the host of the daemon.
//
// It decides who looks, the daemon or, where none runs on this host, the client itself, and how a report is printed. What
// is looked at is package internal/doctor's part.
package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"shoal.dev/shoal/cmd/shoal/internal/daemon"
	"shoal.dev/shoal/internal/doctor"
)

// exitFailure is the exit code if something does not work.
const exitFailure = 1

// maxReport is how many bytes of a report are read: a finding is some 300.
const maxReport = 1 << 20

// AddCommands puts the command below root.
func AddCommands(root *cobra.Command, dockerCLI command.Cli) {
	root.AddCommand(newCommand(dockerCLI, doctor.ThisHost))
}

type options struct {
	peers    []string
	dataRoot string
	format   string
}

func newCommand(dockerCLI command.Cli, host func() *doctor.Host) *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "doctor [OPTIONS]",
		Short: "Examine the host for what Shoal needs of it",
		Long: `Examine the daemon's host for what Shoal needs of it: the kernel, cgroups, runc and nft, the ports of the swarm, other
programs' packet filters, forwarding, the table of connections, the MTU, the clock, the disk, and whether the swarm's
managers and the peers that are named can be reached. One line each: how it is, what was found, and a command that helps.

Where no daemon runs on this host, the client looks itself. Nothing is changed.

The exit code is 1 if something does not work; a warning is worth knowing and no more.`,
		Args:                  cli.NoArgs,
		RunE:                  func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), dockerCLI, host, o) },
		DisableFlagsInUseLine: true,
	}
	defaults := doctor.DefaultFacts()
	f := cmd.Flags()
	f.StringArrayVar(&o.peers, "peer", nil, `Other host that must be reached on the swarm's ports (format: "HOST[:PORT]")`)
	f.StringVar(&o.dataRoot, "data-root", defaults.DataRoot, "Folder of the daemon's data, where no daemon runs")
	daemon.FormatFlag(cmd, &o.format)
	return cmd
}

func run(ctx context.Context, dockerCLI command.Cli, host func() *doctor.Host, o options) error {
	var report doctor.Report
	path := "/shoal/v1/doctor?" + url.Values{"peer": o.peers}.Encode()
	body, err := daemon.Read(ctx, dockerCLI, http.MethodGet, path, maxReport, &report)
	if err != nil {
		socket := dockerCLI.DockerEndpoint().Host
		if !client.IsErrConnectionFailed(err) || !strings.HasPrefix(socket, "unix://") {
			return err
		}
		if report, body, err = examine(ctx, host(), o, socket, err); err != nil {
			return err
		}
	}
	values := make([]any, len(report.Findings))
	for i, f := range report.Findings {
		values[i] = f
	}
	if err := daemon.Print(dockerCLI, o.format, body, func(w io.Writer) { table(w, &report) }, values...); err != nil {
		return err
	}
	if report.Failed() {
		return cli.StatusError{StatusCode: exitFailure}
	}
	return nil
}

// examine looks at this host, whose daemon could not be reached at a socket.
func examine(ctx context.Context, h *doctor.Host, o options, socket string, why error) (doctor.Report, []byte, error) {
	f := doctor.DefaultFacts()
	f.DataRoot, f.Peers = o.dataRoot, o.peers
	daemon := doctor.Finding{Check: "daemon", Level: doctor.Failure, Found: "nobody answers at " + socket, Remedy: "systemctl start shoal"}
	if errors.Is(why, os.ErrPermission) {
		daemon.Found, daemon.Remedy = "this user may not use "+socket, "sudo shoal doctor"
	}
	report := h.Examine(ctx, f)
	report.Findings = slices.Insert(report.Findings, 0, daemon)
	body, err := json.Marshal(report)
	return *report, body, err
}

// table is for people. Found and Remedy are of one line each.
func table(w io.Writer, r *doctor.Report) {
	t := tabwriter.NewWriter(w, 8, 1, 2, ' ', 0)
	fmt.Fprintln(t, "CHECK\tSTATUS\tFOUND")
	for _, f := range r.Findings {
		found := strings.Join(strings.Fields(f.Found), " ")
		if f.Remedy != "" {
			found += "; run: " + f.Remedy
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", f.Check, f.Level, found)
	}
	_ = t.Flush() // into memory
}
