// Package httpapi serves the Docker Engine API: unversioned and as /v1.24 to /v1.56, with the types of
// github.com/moby/moby/api.
//
// It decides how a request is read and how an answer is written: routes, versions (package compat), limits, status
// codes and the words for what cannot be read. It owns no state. It never decides what a command does: that is the
// backends' part, which backend.go declares, one small interface a resource. A route of the Engine API that Shoal does
// not have answers 501 with a sentence (absent.go), never an empty success.
package httpapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"shoal.dev/shoal/internal/httpapi/compat"
)

// Limits of a request. Docker has none; these are ours, far above what a real client sends.
const (
	// MaxJSON is how many bytes a JSON body may have: a service's specification is some KiB, and a config, the
	// largest thing that the API takes as JSON, 1 MB before its base64. More is refused with status 413.
	MaxJSON = 4 << 20
	// maxHeardOut is how many bytes of a body that is too large are read before it is refused.
	maxHeardOut = 16 * MaxJSON
	// RequestTime is how long a request may take that is not a stream. Streams (logs, events, wait, pull, load, stop,
	// restart) end with the client's connection; swarm init and join may take [MembershipTime].
	RequestTime = time.Minute
	// MembershipTime is the bound for joining or leaving a swarm, which asks other nodes.
	MembershipTime = 3 * time.Minute
)

// Config says who answers. A backend that is nil answers 501.
type Config struct {
	Containers Containers
	Images     Images
	Volumes    Volumes
	Disk       Disk
	Events     Events
	Usage      Usage
	Host       Host
	Swarm      Swarm
	Control    Control
	Upkeep     Upkeep
	Jobs       Jobs
	Scheduler  Scheduler
	TaskLogs   TaskLogs
	Networks   Networks
	DryRuns    DryRuns
	Doctor     Doctor
	Log        *slog.Logger // nil discards
	Version    string       // of Shoal, such as "0.1.0"
}

// New returns the API. It is safe for concurrent use and keeps nothing between requests.
func New(c Config) http.Handler {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Version == "" {
		c.Version = "dev"
	}
	a := &api{Config: c}
	a.router = newRouter(a.routes())
	return a
}

type api struct {
	Config
	router *router
}

func (a *api) routes() []route {
	var all []route
	all = append(all, a.systemRoutes()...)
	all = append(all, a.containerRoutes()...)
	all = append(all, a.execRoutes()...)
	all = append(all, a.attachRoutes()...)
	all = append(all, a.archiveRoutes()...)
	all = append(all, a.commitRoutes()...)
	all = append(all, a.imageRoutes()...)
	all = append(all, a.volumeRoutes()...)
	all = append(all, a.swarmRoutes()...)
	all = append(all, a.upkeepRoutes()...)
	all = append(all, a.dryRunRoutes()...)
	all = append(all, a.doctorRoutes()...)
	all = append(all, a.nodeRoutes()...)
	all = append(all, a.serviceRoutes()...)
	all = append(all, a.jobRoutes()...)
	all = append(all, a.schedulerRoutes()...)
	all = append(all, a.taskRoutes()...)
	all = append(all, a.networkRoutes()...)
	all = append(all, a.secretRoutes()...)
	all = append(all, a.configRoutes()...)
	return append(all, absentRoutes()...)
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rw := &response{ResponseWriter: w}
	began := time.Now()
	defer func() {
		if p := recover(); p != nil {
			if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(p)
			}
			a.Log.Error("request panicked", "method", r.Method, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
			if rw.status != 0 {
				panic(http.ErrAbortHandler) // cut the stream, so that the client does not take it for whole
			}
			writeError(rw, r, http.StatusInternalServerError, "internal server error")
		}
		a.Log.Debug("request", "method", r.Method, "path", r.URL.Path, "status", rw.status, "took", time.Since(began))
	}()

	h := w.Header()
	h.Set("Server", fmt.Sprintf("Shoal/%s (%s)", a.Version, runtime.GOOS))
	h.Set("Api-Version", compat.Newest.String())
	h.Set("Ostype", runtime.GOOS)
	h.Set("Docker-Experimental", "false")

	if r.Method == http.MethodOptions {
		rw.WriteHeader(http.StatusOK) // as Docker's daemon, whatever the path
		return
	}
	text, path := splitVersion(r.URL.Path)
	rt, value := a.router.find(r.Method, path)
	if rt == nil {
		writeError(rw, r, http.StatusNotFound, "page not found") // as Docker does for a wrong method, too
		return
	}
	c := &call{Request: r, w: rw, route: rt, value: value, version: compat.Newest}
	err := func() error {
		if text != "" {
			c.version = compat.Parse(text)
			if c.version.Less(compat.Oldest) {
				return invalid("client version %s is too old. Minimum supported API version is %s, please upgrade your client to a newer version", text, compat.Oldest)
			}
			if compat.Newest.Less(c.version) {
				return invalid("client version %s is too new. Maximum supported API version is %s", text, compat.Newest)
			}
		}
		var err error
		if c.query, err = url.ParseQuery(r.URL.RawQuery); err != nil {
			return invalid("%s", err)
		}
		if rt.within > 0 {
			ctx, cancel := context.WithTimeout(r.Context(), rt.within)
			defer cancel()
			c.Request = r.WithContext(ctx)
		}
		return rt.handle(c)
	}()
	if err != nil {
		a.fail(r.Context(), c, err)
	} else if rw.status == 0 {
		rw.WriteHeader(http.StatusOK)
	}
}

// splitVersion cuts "/v1.56" off the path "/v1.56/info"; version is "" if the path has none.
func splitVersion(path string) (version, rest string) {
	v, ok := strings.CutPrefix(path, "/v")
	if !ok {
		return "", path
	}
	version, rest, ok = strings.Cut(v, "/")
	if !ok || version == "" || strings.Trim(version, "0123456789.") != "" {
		return "", path
	}
	return version, "/" + rest
}

// response notes whether and how the answer began.
type response struct {
	http.ResponseWriter
	status int
}

func (r *response) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *response) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

// Flush sends what was written, and the headers if nothing was.
func (r *response) Flush() {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	// A writer that cannot flush is a test's recorder: nothing is lost by not flushing it.
	_ = http.NewResponseController(r.ResponseWriter).Flush()
}

func (r *response) Unwrap() http.ResponseWriter { return r.ResponseWriter }
