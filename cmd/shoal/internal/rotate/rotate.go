// Package rotate adds `rotate` and `versions` to `secret` and `config`.
//
// It decides how the bytes are read and how what was done is printed. What a new version is, and which services are
// updated to it, is the daemon's part, in one request.
package rotate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/service"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"shoal.dev/shoal/cmd/shoal/internal/daemon"
	"shoal.dev/shoal/cmd/shoal/internal/dryrun"
)

const (
	// maxFile is how many bytes are read of a file, more than the daemon takes of a config.
	maxFile = 1 << 20
	// maxAnswer is how many bytes are read of an answer: a service that was updated has 30.
	maxAnswer = 16 << 20
)

// AddCommands puts the commands below root's `secret` and `config`.
func AddCommands(root *cobra.Command, cli *dryrun.Cli) {
	for _, c := range root.Commands() {
		if c.Name() == "secret" || c.Name() == "config" {
			c.AddCommand(newRotateCommand(cli, c.Name()), newVersionsCommand(cli, c.Name()))
		}
	}
}

// rotation is Shoal's control.Rotation.
type rotation struct {
	ID       string
	Version  uint64
	Updated  bool
	Services []string
}

func newRotateCommand(dockerCLI *dryrun.Cli, kind string) *cobra.Command {
	var detach, quiet bool
	upper := strings.ToUpper(kind)
	cmd := &cobra.Command{
		Use:   "rotate [OPTIONS] " + upper + " FILE|-",
		Short: "Give a " + kind + " a new content and update the services that use it",
		Long: `Give a ` + kind + ` a new content from a file or STDIN, and update the services that use it.

The new version takes the name; each service is updated by its own update policy, and goes back with 'service rollback'.
The content that it had is no update. Versions that nothing uses any more are removed.`,
		Args:                  cli.ExactArgs(2),
		Annotations:           daemon.OnManager(),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			data, err := readFile(args[1], dockerCLI.In())
			if err != nil {
				return err
			}
			r, err := rotate(cmd.Context(), dockerCLI, kind, args[0], data)
			if err != nil {
				return err
			}
			if !r.Updated {
				_, err := fmt.Fprintf(dockerCLI.Out(), "%s: no update: it has this content already (version %d)\n", args[0], r.Version)
				return err
			}
			fmt.Fprintf(dockerCLI.Out(), "%s: version %d, services updated: %d\n", args[0], r.Version, len(r.Services))
			if detach {
				return nil
			}
			var errs []error
			for _, id := range r.Services {
				if err := service.WaitOnService(cmd.Context(), dockerCLI, id, quiet); err != nil {
					errs = append(errs, err)
				}
			}
			return errors.Join(errs...)
		},
	}
	cmd.Flags().BoolVarP(&detach, "detach", "d", false, "Exit immediately instead of waiting for the services to converge")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "Suppress progress output")
	return cmd
}

func rotate(ctx context.Context, dockerCLI command.Cli, kind, ref string, data []byte) (*rotation, error) {
	body, err := json.Marshal(struct{ Data []byte }{data})
	if err != nil {
		return nil, err
	}
	resp, err := daemon.Ask(ctx, dockerCLI, http.MethodPost, "/shoal/v1/"+kind+"s/"+url.PathEscape(ref)+"/rotate", "application/json", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var r rotation
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&r); err != nil {
		return nil, fmt.Errorf("reading the daemon's answer: %w", err)
	}
	return &r, nil
}

func readFile(name string, stdin io.Reader) ([]byte, error) {
	r := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	data, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s has more than %d bytes", name, maxFile)
	}
	return data, err
}

// version is Shoal's control.FileVersion.
type version struct {
	ID, Name  string
	Version   uint64
	Current   bool
	CreatedAt time.Time
	Services  []string
}

func newVersionsCommand(dockerCLI command.Cli, kind string) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:                   "versions [OPTIONS] " + strings.ToUpper(kind),
		Short:                 "List the versions of a " + kind + " that there are, the newest first",
		Args:                  cli.ExactArgs(1),
		Annotations:           daemon.OnManager(),
		DisableFlagsInUseLine: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			var all []version
			body, err := daemon.Read(cmd.Context(), dockerCLI, http.MethodGet, "/shoal/v1/"+kind+"s/"+url.PathEscape(args[0])+"/versions", maxAnswer, &all)
			if err != nil {
				return err
			}
			values := make([]any, len(all))
			for i := range all {
				values[i] = all[i]
			}
			return daemon.Print(dockerCLI, format, body, func(w io.Writer) {
				tw := tabwriter.NewWriter(w, 10, 1, 3, ' ', 0)
				fmt.Fprintln(tw, "VERSION\tNAME\tID\tCREATED\tSERVICES")
				for _, v := range all {
					fmt.Fprintf(tw, "%d\t%s\t%s\t%s ago\t%s\n", v.Version, v.Name, v.ID, units.HumanDuration(time.Since(v.CreatedAt)), strings.Join(v.Services, ", "))
				}
				_ = tw.Flush() // into memory
			}, values...)
		},
	}
	daemon.FormatFlag(cmd, &format)
	return cmd
}
