// Package dryrun tries changes of the swarm: it serves the Engine API on a copy of the swarm's records, and says in what
// the copy differs from the swarm afterwards.
//
// It decides which requests can be tried, how long a dry run is kept, and what is shown of a difference. It owns the
// copies, in memory. What a request does is not decided here: the copy is served by the same package control as the
// swarm, so that a dry run is refused where the change itself would be. It never writes to the swarm, sends nothing to
// a node and keeps nothing after [idle].
package dryrun

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/common"
	"github.com/moby/moby/api/types/network"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/httpapi"
	"shoal.dev/shoal/internal/store"
)

const (
	// Header names the dry run that a request belongs to.
	Header = "Shoal-Dry-Run"

	// idle is how long a dry run is kept that nobody asks for: a client asks several times a second.
	idle = 2 * time.Minute
	// maxRuns bounds how many are kept at once: each holds the records that it changed and, while the swarm goes on,
	// those that the swarm has no more.
	maxRuns = 16
)

// Config says what is tried.
type Config struct {
	Control *control.Control
	// Host are the host's own networks.
	Host func() []network.Inspect
	Log  *slog.Logger
}

// Runs are the dry runs of a manager. It is safe for concurrent use.
type Runs struct {
	cfg Config

	mu   sync.Mutex
	runs map[string]*run
}

// run is one dry run.
type run struct {
	used   time.Time
	base   *store.Snapshot
	forked *control.Control
	api    http.Handler
}

// New returns no dry runs yet.
func New(cfg Config) *Runs { return &Runs{cfg: cfg, runs: map[string]*run{}} }

// Wrap answers the requests that belong to a dry run and passes the others on to next.
func (r *Runs) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if id := req.Header.Get(Header); id != "" {
			r.try(id, next, w, req)
			return
		}
		next.ServeHTTP(w, req)
	})
}

// Open implements httpapi.DryRuns.
func (r *Runs) Open(ctx context.Context) (id string, err error) {
	forked, err := r.cfg.Control.Fork(ctx)
	if err != nil {
		return "", err
	}
	base, err := forked.Snapshot(ctx)
	if err != nil {
		return "", err
	}
	x := &run{used: time.Now(), base: base, forked: forked, api: httpapi.New(httpapi.Config{
		Control: forked, Networks: networks{forked, r.cfg.Host}, Log: r.cfg.Log,
	})}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forgetLocked(x.used)
	if len(r.runs) >= maxRuns {
		return "", errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("%d dry runs are under way, and no more are kept at a time: try again in a minute", maxRuns))
	}
	id = cluster.NewID()
	r.runs[id] = x
	return id, nil
}

// Changes implements httpapi.DryRuns.
func (r *Runs) Changes(ctx context.Context, id string) ([]httpapi.DryRunChange, error) {
	x, err := r.find(id)
	if err != nil {
		return nil, err
	}
	after, err := x.forked.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	return compare(x.base, after)
}

// End implements httpapi.DryRuns.
func (r *Runs) End(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.runs, id)
}

// forgetLocked drops the runs that nobody has asked for in a while.
func (r *Runs) forgetLocked(now time.Time) {
	for id, x := range r.runs {
		if now.Sub(x.used) > idle {
			delete(r.runs, id)
		}
	}
}

func (r *Runs) find(id string) (*run, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	r.forgetLocked(now)
	x, ok := r.runs[id]
	if !ok {
		return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("dry run %s not found: one ends %s after its last request, and with the daemon", id, idle))
	}
	x.used = now
	return x, nil
}

var (
	version = regexp.MustCompile(`^/v[0-9]+\.[0-9]+`)
	// ofSwarm are the paths of what a dry run has a copy of.
	ofSwarm = regexp.MustCompile(`^/(swarm|nodes|services|tasks|(shoal/v1/)?(secrets|configs)|networks)(/|$)`)
	// ofNode are those of them that are not about the swarm's records.
	ofNode = regexp.MustCompile(`^/(swarm/(init|join|leave|unlock|unlockkey)|networks/prune|networks/[^/]+/(connect|disconnect)|(services|tasks)/[^/]+/logs)$`)
)

// try answers a request of a dry run.
func (r *Runs) try(id string, next http.Handler, w http.ResponseWriter, req *http.Request) {
	x, err := r.find(id)
	path := version.ReplaceAllString(req.URL.Path, "")
	switch reads := req.Method == http.MethodGet || req.Method == http.MethodHead; {
	case err != nil:
		refuse(w, http.StatusNotFound, err)
	case ofSwarm.MatchString(path) && !ofNode.MatchString(path):
		x.api.ServeHTTP(w, req)
	case reads:
		next.ServeHTTP(w, req) // such as of the daemon's version, or of a registry's images
	default:
		refuse(w, http.StatusNotImplemented, fmt.Errorf("%s %s cannot be tried: a dry run is of the swarm's services, nodes, networks, secrets, configs and settings", req.Method, path))
	}
}

func refuse(w http.ResponseWriter, status int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(common.ErrorResponse{Message: err.Error()}) // the client is gone if this fails; there is nobody to tell
}
