package httpapi

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types"
	"github.com/moby/moby/api/types/events"

	"shoal.dev/shoal/internal/engine"
)

// clockSlack is how far in the past a client's "since" may lie and still mean now: clients send their own clock.
const clockSlack = 5 * time.Second

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
	if !since.IsZero() && since.Before(now.Add(-clockSlack)) || !until.IsZero() && until.Before(now.Add(-clockSlack)) {
		return absent("events of the past are not supported: they are not kept by Shoal yet")
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
	ch := a.Events.Events(c.Context())
	mediaType := c.streamType()
	c.w.Header().Set("Content-Type", mediaType)
	c.w.Flush()
	for {
		select {
		case e, ok := <-ch:
			if !ok {
				return nil
			}
			if !eventMatches(e, filters) || e.Type == "image" && e.Action == "create" && !c.since(46) {
				continue
			}
			b, err := c.encode(message(e))
			if err != nil {
				return err
			}
			if mediaType == types.MediaTypeJSONSequence {
				b = append([]byte{'\x1e'}, b...)
			}
			if _, err := c.w.Write(b); err != nil {
				return nil // the client is gone
			}
			c.w.Flush()
		case <-expired:
			return nil
		case <-c.Context().Done():
			return nil
		}
	}
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
		Scope:    "local",
		Time:     e.Time.Unix(),
		TimeNano: e.Time.UnixNano(),
	}
}

// checkEventFilters refuses a filter that nothing could ever match, rather than wait for ever.
func checkEventFilters(filters map[string][]string) error {
	for k := range filters {
		switch k {
		case "type", "event", "container", "image", "volume", "label", "scope":
		case "config", "daemon", "network", "node", "plugin", "secret", "service":
			return absent("events of a %s are not supported: they are not implemented by Shoal yet", k)
		default:
			return invalid("invalid filter '%s'", k)
		}
	}
	if ts := filters["type"]; len(ts) > 0 && !slices.Contains(ts, "container") && !slices.Contains(ts, "image") && !slices.Contains(ts, "volume") {
		return absent("events of type %s are not supported: they are not implemented by Shoal yet", strings.Join(ts, ", "))
	}
	return nil
}

// eventMatches says whether an event passes: the filters all, of the values of one filter any, of labels all.
func eventMatches(e engine.Event, filters map[string][]string) bool {
	for k, values := range filters {
		ok := false
		switch k {
		case "type":
			ok = slices.Contains(values, e.Type)
		case "scope":
			ok = slices.Contains(values, "local")
		case "event": // "health_status" also stands for "health_status: healthy"
			ok = slices.ContainsFunc(values, func(v string) bool { return e.Action == v || strings.HasPrefix(e.Action, v+":") })
		case "container":
			ok = e.Type == "container" && named(e, values)
		case "volume":
			ok = e.Type == "volume" && slices.Contains(values, e.ID)
		case "image":
			if e.Type == "image" {
				ok = named(e, values)
			} else {
				ok = slices.ContainsFunc(values, func(v string) bool { return sameImage(e.Attributes["image"], v) })
			}
		case "label":
			ok = !slices.ContainsFunc(values, func(v string) bool {
				name, want, exact := strings.Cut(v, "=")
				have, found := e.Attributes[name]
				return !found || exact && have != want
			})
		}
		if !ok {
			return false
		}
	}
	return true
}

func named(e engine.Event, values []string) bool {
	return slices.ContainsFunc(values, func(v string) bool {
		return v != "" && (strings.HasPrefix(e.ID, v) || e.Attributes["name"] == strings.TrimPrefix(v, "/") || e.Type == "image" && sameImage(e.Attributes["name"], v))
	})
}

// sameImage compares two names; one without a tag stands for every tag.
func sameImage(have, want string) bool {
	return have == want || strings.HasPrefix(have, want+":")
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
