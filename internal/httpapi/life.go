package httpapi

import (
	"net/http"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
)

// statsPeriod is the time between two samples of a container's statistics; Docker's.
const statsPeriod = time.Second

func (a *api) pauseContainer(c *call) error {
	if err := a.Containers.Pause(c.Context(), c.value); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *api) unpauseContainer(c *call) error {
	if err := a.Containers.Unpause(c.Context(), c.value); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *api) renameContainer(c *call) error {
	if err := a.Containers.Rename(c.Context(), c.value, c.query.Get("name")); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (a *api) topContainer(c *call) error {
	r, err := a.Containers.Top(c.Context(), c.value, strings.Fields(c.query.Get("ps_args")))
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, r)
}

func (a *api) updateContainer(c *call) error {
	var u container.UpdateConfig
	if err := c.json(&u); err != nil {
		return err
	}
	if !c.since(40) {
		u.PidsLimit = nil // unknown to clients of that time
	}
	warnings, err := a.Containers.Update(c.Context(), c.value, u)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, container.UpdateResponse{Warnings: list(warnings)})
}

func (a *api) pruneContainers(c *call) error {
	filters, err := c.filters()
	if err != nil {
		return err
	}
	r, err := a.Containers.Prune(c.Context(), filters)
	if err != nil {
		return err
	}
	r.ContainersDeleted = list(r.ContainersDeleted)
	return c.reply(http.StatusOK, r)
}

// containerStats answers with samples, one a second, each with the one before it; or with one, which takes a second
// because of the one before it, unless one-shot.
func (a *api) containerStats(c *call) error {
	stream := c.query.Get("stream") == "" || c.flag("stream")
	oneShot := c.since(41) && c.flag("one-shot")
	if stream && oneShot {
		return invalid("cannot have stream=true and one-shot=true")
	}
	s, err := a.Containers.Stats(c.Context(), c.value)
	if err != nil {
		return err
	}
	if !stream && (oneShot || s.Read.IsZero()) {
		return c.reply(http.StatusOK, s)
	}
	id := s.ID // a name may be given to another
	tick := time.NewTicker(statsPeriod)
	defer tick.Stop()
	if stream {
		if err := a.writeStats(c, s); err != nil {
			return err
		}
	}
	for {
		select {
		case <-tick.C:
		case <-c.Context().Done():
			return nil
		}
		before := s
		if s, err = a.Containers.Stats(c.Context(), id); err != nil {
			if stream {
				return nil // it was removed: the stream ends, as in Docker
			}
			return err
		}
		if !s.Read.IsZero() && !before.Read.IsZero() {
			s.PreRead, s.PreCPUStats = before.Read, before.CPUStats
		}
		if !stream {
			return c.reply(http.StatusOK, s)
		}
		if err := a.writeStats(c, s); err != nil {
			return nil // the client is gone
		}
	}
}

func (a *api) writeStats(c *call, s *container.StatsResponse) error {
	b, err := c.encode(s)
	if err != nil {
		return err
	}
	if c.w.status == 0 {
		c.w.Header().Set("Content-Type", "application/json")
	}
	if _, err := c.w.Write(b); err != nil {
		return err
	}
	c.w.Flush()
	return nil
}
