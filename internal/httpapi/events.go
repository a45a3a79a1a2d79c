package httpapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/moby/moby/api/types"
	"github.com/moby/moby/api/types/events"

	"shoal.dev/shoal/internal/engine"
)

func (a *api) events(c *call) error {
	if err := need(a.Events != nil, "events"); err != nil {
		return err
	}
	since, err := parseTime("since", c.query.Get("since"))
	if err != nil {
		return err
	}
	until, err := parseTime("until", c.query.Get("until"))
	if err != nil {
		return err
	}
	now := time.Now()
	if !until.IsZero() && until.Before(since) {
		return invalid("`since` time (%s) cannot be after `until` time (%s)", c.query.Get("since"), c.query.Get("until"))
	}
	filters, err := c.filters()
	if err != nil {
		return err
	}
	if err := checkEventFilters(filters); err != nil {
		return err
	}

	var expired <-chan time.Time
	if !until.IsZero() {
		t := time.NewTimer(until.Sub(now))
		defer t.Stop()
		expired = t.C
	}
	past, live := a.Events.Recall(c.Context(), since)
	if since.IsZero() && until.IsZero() {
		past = nil
	}
	s := eventStream{c: c, filters: filters, mediaType: c.streamType()}
	c.w.Header().Set("Content-Type", s.mediaType)
	c.w.Flush()
	for _, e := range past {
		if !until.IsZero() && e.Time.After(until) {
			continue
		}
		if err := s.send(e); err != nil {
			return err
		}
	}
	if !until.IsZero() && until.Before(now) {
		return nil
	}
	for {
		select {
		case e, ok := <-live:
			if !ok {
				if c.Context().Err() != nil {
					return nil
				}
				// Whoever gets this must not take the stream for whole: [api.fail] cuts the connection.
				return fmt.Errorf("the reader is more than %d events behind and was cut off", engine.MaxBehind)
			}
			if err := s.send(e); err != nil {
				return err
			}
		case <-expired:
			return nil
		case <-c.Context().Done():
			return nil
		}
	}
}

// eventStream writes events to one client.
type eventStream struct {
	c         *call
	filters   map[string][]string
	mediaType string
}

// send writes an event if the client wants it. That the client is gone shows in its context.
func (s eventStream) send(e engine.Event) error {
	if !eventMatches(e, s.filters) || e.Type == "image" && e.Action == "create" && !s.c.since(46) {
		return nil
	}
	b, err := s.c.encode(message(e))
	if err != nil {
		return err
	}
	if s.mediaType == types.MediaTypeJSONSequence {
		b = append([]byte{'\x1e'}, b...)
	}
	_, _ = s.c.w.Write(b)
	s.c.w.Flush()
	return nil
}

// streamType picks the media type of a stream of JSON values from the request's Accept header.
func (c *call) streamType() string {
	accept := strings.Join(c.Header.Values("Accept"), ",")
	for _, t := range []string{types.MediaTypeJSONLines, types.MediaTypeNDJSON, types.MediaTypeJSONSequence} {
		if strings.Contains(accept, t) {
			return t
		}
	}
	return types.MediaTypeJSON
}

func message(e engine.Event) events.Message {
	attrs := e.Attributes
	if attrs == nil {
		attrs = map[string]string{}
	}
	return events.Message{
		Type:     events.Type(e.Type),
		Action:   events.Action(e.Action),
		Actor:    events.Actor{ID: e.ID, Attributes: attrs},
		Scope:    scopeOf(e),
		Time:     e.Time.Unix(),
		TimeNano: e.Time.UnixNano(),
	}
}

// lines writes a stream of JSON values, each on a line of its own and sent at once.
type lines struct{ c *call }

func (l lines) write(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if l.c.w.status == 0 {
		l.c.w.Header().Set("Content-Type", types.MediaTypeJSON)
		l.c.w.WriteHeader(http.StatusOK)
	}
	if _, err = l.c.w.Write(append(b, '\r', '\n')); err != nil {
		return err
	}
	l.c.w.Flush()
	return nil
}
