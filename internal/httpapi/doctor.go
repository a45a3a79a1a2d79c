package httpapi

import (
	"context"
	"net"
	"net/http"
	"strconv"

	"shoal.dev/shoal/internal/doctor"
)

// maxPeers is how many other nodes may be asked for at a time.
const maxPeers = 64

// Doctor examines the host on which the daemon runs.
type Doctor interface {
	// Examine also looks whether the peers can be reached, HOST or HOST:PORT each, and whom the node knows of the swarm.
	Examine(ctx context.Context, peers []string) *doctor.Report
}

func (a *api) doctorRoutes() []route {
	return []route{get("/shoal/v1/doctor", a.examine)}
}

func (a *api) examine(c *call) error {
	if err := need(a.Doctor != nil, "examinations"); err != nil {
		return err
	}
	peers := c.query["peer"]
	if len(peers) > maxPeers {
		return invalid("%d peers: at most %d are asked at a time", len(peers), maxPeers)
	}
	for _, p := range peers {
		host, port, err := net.SplitHostPort(p)
		if err != nil {
			host, port = p, "1"
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" {
			return invalid("peer %q: give it as HOST or HOST:PORT", p)
		}
	}
	return c.reply(http.StatusOK, a.Doctor.Examine(c.Context(), peers))
}
