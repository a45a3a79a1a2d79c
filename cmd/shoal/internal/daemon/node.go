package daemon

import (
	"context"
	"net"

	"github.com/moby/moby/client"
)

const (
	// EnvNode names the node whose API is asked, through the daemon's; the flag --node sets it.
	EnvNode = "SHOAL_NODE"
	// HeaderNode is on every request that a manager is to pass on to the node that it names; see internal/node.
	HeaderNode = "Shoal-Node"
)

// Client is the daemon's API over the connection of base's context, with further headers on every request.
func Client(base client.APIClient, headers map[string]string) (*client.Client, error) {
	dial := base.Dialer()
	return client.New(
		client.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }),
		client.WithAPIVersion(base.ClientVersion()),
		client.WithHTTPHeaders(headers),
	)
}
