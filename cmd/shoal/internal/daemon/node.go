package daemon

import (
	"context"
	"net"
	"os"

	"github.com/moby/moby/client"
)

const (
	// EnvNode names the node whose API is asked, through the daemon's; the flag --node sets it.
	EnvNode = "SHOAL_NODE"
	// HeaderNode is on every request that a manager is to pass on to the node that it names; see internal/node.
	HeaderNode = "Shoal-Node"
)

// Client is the daemon's API over the connection of base's context, with a further header on every request. Unless that
// names a node, it is the API of the node that EnvNode names.
func Client(base client.APIClient, header, value string) (*client.Client, error) {
	headers := map[string]string{header: value}
	if node := os.Getenv(EnvNode); node != "" && header != HeaderNode {
		headers[HeaderNode] = node
	}
	dial := base.Dialer()
	return client.New(
		client.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }),
		client.WithAPIVersion(base.ClientVersion()),
		client.WithHTTPHeaders(headers),
	)
}
