package httpapi

import (
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine"
)

// pathStatHeader says what is at a path, as JSON in base64.
const pathStatHeader = "X-Docker-Container-Path-Stat"

func (a *api) archiveRoutes() []route {
	with := func(h func(*call) error) func(*call) error {
		return func(c *call) error {
			if err := need(a.Containers != nil, "containers"); err != nil {
				return err
			}
			c.value = strings.TrimPrefix(c.value, "/")
			return h(c)
		}
	}
	// file is for routes that are about one path in a container.
	file := func(h func(c *call, path string) error) func(*call) error {
		return with(func(c *call) error {
			if c.value == "" {
				return invalid("bad parameter: name cannot be empty")
			}
			path := c.query.Get("path")
			if path == "" {
				return invalid("bad parameter: path cannot be empty")
			}
			return h(c, path)
		})
	}
	const archive = "/containers/{name*}/archive"
	return []route{
		{http.MethodHead, archive, RequestTime, file(a.statArchive)},
		get(archive, file(a.getArchive)).lasting(0),
		{http.MethodPut, archive, 0, file(a.putArchive)},
		get("/containers/{name*}/export", with(a.exportContainer)).lasting(0),
		get("/containers/{name*}/changes", with(a.containerChanges)).lasting(0),
	}
}

func (a *api) statArchive(c *call, path string) error {
	st, err := a.Containers.StatFile(c.Context(), c.value, path)
	if err != nil {
		return err
	}
	return setPathStat(c.w.Header(), st)
}

func setPathStat(h http.Header, st container.PathStat) error {
	b, err := json.Marshal(st)
	if err != nil {
		return err
	}
	h.Set(pathStatHeader, base64.StdEncoding.EncodeToString(b))
	return nil
}

func (a *api) getArchive(c *call, path string) error {
	var packed *gzip.Writer
	err := a.Containers.ReadFiles(c.Context(), c.value, path, func(st container.PathStat) (io.Writer, error) {
		if err := setPathStat(c.w.Header(), st); err != nil {
			return nil, err
		}
		c.w.Header().Set("Content-Type", "application/x-tar")
		if !takesGzip(c.Header) {
			return c.w, nil
		}
		c.w.Header().Set("Content-Encoding", "gzip")
		packed = gzip.NewWriter(c.w)
		return packed, nil
	})
	if err != nil {
		c.w.Header().Del("Content-Encoding") // an error is plain
		return err
	}
	if packed != nil {
		return packed.Close()
	}
	return nil
}

// takesGzip says whether a client wants gzip rather than nothing.
func takesGzip(h http.Header) bool {
	for e := range strings.SplitSeq(strings.Join(h.Values("Accept-Encoding"), ","), ",") {
		name, params, _ := strings.Cut(e, ";")
		if name = strings.TrimSpace(name); name != "gzip" {
			continue
		}
		q, has := strings.CutPrefix(strings.ReplaceAll(params, " ", ""), "q=")
		if weight, err := strconv.ParseFloat(q, 64); !has || err == nil && weight > 0 {
			return true
		}
	}
	return false
}

func (a *api) putArchive(c *call, path string) error {
	return a.Containers.WriteFiles(c.Context(), c.value, path, c.Body, engine.WriteOptions{
		OwnerUser: c.flag("copyUIDGID"), KeepKinds: c.flag("noOverwriteDirNonDir"),
	})
}

func (a *api) exportContainer(c *call) error {
	c.w.Header().Set("Content-Type", "application/octet-stream")
	return a.Containers.Export(c.Context(), c.value, c.w)
}

func (a *api) containerChanges(c *call) error {
	changes, err := a.Containers.Changes(c.Context(), c.value)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, list(changes))
}
