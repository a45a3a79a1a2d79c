package upkeep

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/docker/cli/cli/command"
	"github.com/spf13/cobra"

	"shoal.dev/shoal/cmd/shoal/internal/daemon"
)

const flagAdvertise = "advertise-addr"

// addAddress gives `swarm update` the flag with which a manager is told its own new address. The other flags are
// docker/cli's, and are for the whole swarm.
func addAddress(update *cobra.Command, dockerCLI command.Cli) {
	update.Flags().String(flagAdvertise, "", `Change this manager's own advertised address (format: "<ip|interface>[:port]")`)
	rest := update.RunE
	update.RunE = func(cmd *cobra.Command, args []string) error {
		f := cmd.Flags().Lookup(flagAdvertise)
		if !f.Changed {
			return rest(cmd, args)
		}
		if err := readdress(cmd.Context(), dockerCLI, f.Value.String()); err != nil {
			return err
		}
		if cmd.Flags().NFlag() > 1 {
			return rest(cmd, args)
		}
		return nil
	}
}

func readdress(ctx context.Context, dockerCLI command.Cli, addr string) error {
	resp, err := daemon.Ask(ctx, dockerCLI, http.MethodPost, "/shoal/v1/swarm/address?"+url.Values{"advertise": {addr}}.Encode(), "", nil)
	if err != nil {
		return err
	}
	fmt.Fprintln(dockerCLI.Out(), "The swarm finds this manager at its new address.")
	return resp.Body.Close()
}
