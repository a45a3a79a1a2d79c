// Package upkeep adds Shoal's own commands to `swarm`: backup, restore and health.
//
// It decides how a backup lies on the client's disk and how a swarm's health is printed. It never looks into one beyond its digest: what the records mean
// is the daemon's part.
package upkeep

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"

	"github.com/docker/cli/cli/command"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// AddCommands puts the commands below root's `swarm`.
func AddCommands(root *cobra.Command, cli command.Cli) {
	for _, c := range root.Commands() {
		if c.Name() == "swarm" {
			c.AddCommand(newBackupCommand(cli), newRestoreCommand(cli), newHealthCommand(cli))
		}
	}
}

// onManager marks a command that only managers answer, as docker/cli's own are marked.
func onManager() map[string]string { return map[string]string{"version": "1.24", "swarm": "manager"} }

// staleHeader is on answers that a manager gave from what it last knew; see internal/node.
const staleHeader = "Shoal-Stale"

// maxRefusal is how many bytes of a refusal are read.
const maxRefusal = 64 << 10

// ask asks the daemon at a path of Shoal's own, over the connection that the client's context names. Whoever gets the
// answer closes its body.
func ask(ctx context.Context, cli command.Cli, method, path, contentType string, body io.Reader) (*http.Response, error) {
	api := cli.Client()
	req, err := http.NewRequestWithContext(ctx, method, "http://shoald"+path, body)
	if err != nil {
		return nil, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	dial := api.Dialer()
	c := http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableKeepAlives: true,
	}}
	resp, err := c.Do(req)
	if err != nil {
		// The client's own words for a daemon that is not there are the better ones.
		if _, perr := api.Ping(ctx, client.PingOptions{}); perr != nil {
			return nil, perr
		}
		return nil, fmt.Errorf("the daemon did not answer: %w", err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	var refusal struct{ Message string }
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxRefusal)).Decode(&refusal); err != nil || refusal.Message == "" {
		refusal.Message = resp.Status
	}
	return nil, errors.New("Error response from daemon: " + refusal.Message)
}
