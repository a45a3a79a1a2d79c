// Package daemon asks the daemon at the paths of Shoal's own, for the commands that docker/cli does not have.
//
// It decides how such a request is sent and how a refusal reads. It owns no command.
package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"

	"github.com/docker/cli/cli/command"
	"github.com/moby/moby/client"
)

// OnManager marks a command that only managers answer, as docker/cli's own are marked.
func OnManager() map[string]string { return map[string]string{"version": "1.24", "swarm": "manager"} }

// StaleHeader is on answers that a manager gave from what it last knew; see internal/node.
const StaleHeader = "Shoal-Stale"

// MaxRefusal is how many bytes of a refusal are read.
const MaxRefusal = 64 << 10

// Ask asks the daemon at a path of Shoal's own, over the connection that the client's context names. A refusal is an
// error in Docker's words. Whoever gets the answer closes its body.
func Ask(ctx context.Context, cli command.Cli, method, path, contentType string, body io.Reader) (*http.Response, error) {
	api := cli.Client()
	req, err := http.NewRequestWithContext(ctx, method, "http://shoald"+path, body)
	if err != nil {
		return nil, err
	}
	if h, ok := cli.(interface{ Header() http.Header }); ok { // one that tries its commands
		req.Header = h.Header()
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if node := os.Getenv(EnvNode); node != "" {
		req.Header.Set(HeaderNode, node)
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
	if err := json.NewDecoder(io.LimitReader(resp.Body, MaxRefusal)).Decode(&refusal); err != nil || refusal.Message == "" {
		refusal.Message = resp.Status
	}
	return nil, errors.New("Error response from daemon: " + refusal.Message)
}
