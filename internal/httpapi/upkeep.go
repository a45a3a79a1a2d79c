package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// The routes below /shoal are Shoal's own: the Engine API has nothing like them. They have no versions but the one in
// their path.

// MaxBackup is how many bytes a backup may have: a swarm of 100,000 tasks has some 200 MB.
const MaxBackup = 2 << 30

// Upkeep is what keeps a swarm alive.
type Upkeep interface {
	// Health asks every manager how it is and waits for none longer than a few seconds; it needs no leader and no
	// majority. Unavailable on a node that is no manager.
	Health(ctx context.Context) (*SwarmHealth, error)
	// Backup writes all of the swarm's records, keys and secrets included, from this manager's replica. What fails
	// before anything was written is of the classes of [Control]; an error after that leaves a backup that is refused.
	Backup(ctx context.Context, w io.Writer) error
	// Restore makes a swarm of this node alone from a backup. Unavailable if the node is in a swarm, InvalidArgument for
	// what is no whole backup or a bad address; then nothing was changed.
	Restore(ctx context.Context, r RestoreRequest, backup io.Reader) (nodeID string, err error)
	// Readdress changes the address under which the swarm finds this manager. InvalidArgument for a bad one and for one at
	// which the swarm's leader does not find it; then nothing was changed. Unavailable if the swarm could not be told yet.
	Readdress(ctx context.Context, advertise string) error
	// CheckNetworks compares the records with what every node was told of the swarm's networks and with its kernel, and waits
	// for none longer than a few seconds. With a name or an ID it is of that network only: NotFound if there is none.
	CheckNetworks(ctx context.Context, ref string) (*NetworkCheck, error)
}

// RestoreRequest says where the node of a restored swarm is found; the fields are those of swarm.InitRequest.
type RestoreRequest struct{ ListenAddr, AdvertiseAddr, DataPathAddr string }

func (a *api) upkeepRoutes() []route {
	own := func(h func(*call) error) func(*call) error {
		return func(c *call) error {
			if err := need(a.Upkeep != nil, "swarms"); err != nil {
				return err
			}
			return h(c)
		}
	}
	return []route{
		get("/shoal/v1/swarm/health", own(a.swarmHealth)),
		get("/shoal/v1/networks/check", own(a.checkNetworks)),
		get("/shoal/v1/swarm/backup", own(a.backupSwarm)).lasting(0),
		post("/shoal/v1/swarm/address", own(a.readdress)).lasting(MembershipTime),
		post("/shoal/v1/swarm/restore", own(a.restoreSwarm)).lasting(MembershipTime),
	}
}

func (a *api) swarmHealth(c *call) error {
	h, err := a.Upkeep.Health(c.Context())
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, h)
}

func (a *api) checkNetworks(c *call) error {
	n, err := a.Upkeep.CheckNetworks(c.Context(), c.query.Get("network"))
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, n)
}

func (a *api) readdress(c *call) error {
	return a.Upkeep.Readdress(c.Context(), c.query.Get("advertise"))
}

const backupType = "application/vnd.shoal.backup"

// backupSwarm streams a backup. If it fails on the way the connection is cut, and what the client has lacks its end.
func (a *api) backupSwarm(c *call) error {
	c.w.Header().Set("Content-Type", backupType)
	return a.Upkeep.Backup(c.Context(), c.w)
}

func (a *api) restoreSwarm(c *call) error {
	if ct := c.Header.Get("Content-Type"); ct != backupType {
		return invalid("unsupported Content-Type header (%s): must be '%s'", ct, backupType)
	}
	// A body comes as slowly as its disk and its link are: the server's own time-outs are for requests without one.
	_ = http.NewResponseController(c.w).SetReadDeadline(time.Time{})
	id, err := a.Upkeep.Restore(c.Context(), RestoreRequest{
		ListenAddr: c.query.Get("listen"), AdvertiseAddr: c.query.Get("advertise"), DataPathAddr: c.query.Get("datapath"),
	}, http.MaxBytesReader(c.w, c.Body, MaxBackup))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return &statusError{http.StatusRequestEntityTooLarge, fmt.Sprintf("request body too large: a backup may have at most %d bytes", MaxBackup)}
	}
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, id)
}
