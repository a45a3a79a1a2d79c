package httpapi_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/httpapi/apitest"
)

// past is what happened: event i at second 1000+i.
func past() []engine.Event {
	labels := map[string]string{"name": "web", "image": "hello:1", "tier": "front"}
	list := []engine.Event{
		{Type: "image", Action: "pull", ID: "hello:1", Attributes: map[string]string{"name": "hello"}},
		{Type: "container", Action: "create", ID: "c1", Attributes: labels},
		{Type: "container", Action: "exec_start: sh -c x", ID: "c1", Attributes: labels},
		{Type: "network", Action: "connect", ID: "n1", Attributes: map[string]string{"name": "bridge", "container": "c1"}},
		{Type: "volume", Action: "create", ID: "data", Attributes: map[string]string{"driver": "local"}},
		{Type: "container", Action: "die", ID: "c2", Attributes: map[string]string{"name": "job", "image": "busybox", "tier": "back"}},
		{Type: "service", Action: "update", ID: "s1", Scope: "swarm", Attributes: map[string]string{"name": "api"}},
		{Type: "daemon", Action: "reload", ID: "d1", Attributes: map[string]string{"name": "node1"}},
		{Type: "container", Action: "health_status: healthy", ID: "c1", Attributes: labels},
	}
	for i := range list {
		list[i].Time = time.Unix(1000+int64(i), 5)
	}
	return list
}

// TestEventsOfThePast asks for what happened until long ago, so that every answer ends by itself.
func TestEventsOfThePast(t *testing.T) {
	for _, c := range []struct{ query, filters, want string }{
		{"until=2000", ``, "0 1 2 3 4 5 6 7 8"},
		{"since=1&until=2000", ``, "0 1 2 3 4 5 6 7 8"},
		{"since=1003.000000005&until=1005.1", ``, "3 4 5"},
		{"since=1003.000000006&until=1005", ``, "4"},
		{"since=1970-01-01T00:16:47Z&until=1970-01-01T00:20:00Z", ``, "7 8"},
		{"until=1h", ``, "0 1 2 3 4 5 6 7 8"},
		{"since=2000&until=2001", ``, ""},
		{"until=2000", `{"type":["container"]}`, "1 2 5 8"},
		{"until=2000", `{"type":["image","volume"]}`, "0 4"},
		{"until=2000", `{"type":["nothing"]}`, ""},
		{"until=2000", `{"event":["create"]}`, "1 4"},
		{"until=2000", `{"event":["exec"]}`, ""},
		{"until=2000", `{"event":["exec_start"]}`, "2"},
		{"until=2000", `{"event":["exec_start: sh -c x"]}`, "2"},
		{"until=2000", `{"event":["health_status","die"]}`, "5 8"},
		{"until=2000", `{"event":["health_status: unhealthy"]}`, ""},
		{"until=2000", `{"container":["web"]}`, "1 2 8"},
		{"until=2000", `{"container":["c"]}`, "1 2 5 8"},
		{"until=2000", `{"container":["web","job"],"event":["die"]}`, "5"},
		{"until=2000", `{"image":["hello"]}`, "0 1 2 8"},
		{"until=2000", `{"image":["hello:1"]}`, "0 1 2 8"},
		{"until=2000", `{"image":["hello:2"]}`, ""},
		{"until=2000", `{"volume":["data"]}`, "4"},
		{"until=2000", `{"network":["bridge"]}`, "3"},
		{"until=2000", `{"service":["api"]}`, "6"},
		{"until=2000", `{"daemon":["node1"]}`, "7"},
		{"until=2000", `{"node":["x"]}`, ""},
		{"until=2000", `{"secret":["x"],"config":["y"]}`, ""},
		{"until=2000", `{"scope":["swarm"]}`, "6"},
		{"until=2000", `{"scope":["local"],"type":["daemon"]}`, "7"},
		{"until=2000", `{"label":["tier"]}`, "1 2 5 8"},
		{"until=2000", `{"label":["tier=front","image=hello:1"]}`, "1 2 8"},
		{"until=2000", `{"label":["tier=none"]}`, ""},
	} {
		t.Run(c.query+" "+c.filters, func(t *testing.T) {
			e := apitest.NewEngine()
			e.Past = past()
			w := ask(t, handler(e, apitest.NewSwarm()), "GET", "/events?"+c.query+"&filters="+url.QueryEscape(c.filters), "", "")
			var got []string
			for d := json.NewDecoder(w.Body); d.More(); {
				var m struct{ TimeNano int64 }
				if err := d.Decode(&m); err != nil {
					t.Fatal(err)
				}
				got = append(got, fmt.Sprint(m.TimeNano/1e9-1000))
			}
			if d := cmp.Diff(c.want, strings.Join(got, " ")); d != "" || w.Code != http.StatusOK {
				t.Errorf("status %d: %s", w.Code, d)
			}
		})
	}
}

// TestEventsOfASlowReader sees that a stream with a gap cannot be taken for a whole one.
func TestEventsOfASlowReader(t *testing.T) {
	e := apitest.NewEngine()
	close(e.Feed)
	defer func() {
		if p := recover(); p != http.ErrAbortHandler {
			t.Errorf("the handler ended with %v, not by cutting the connection", p)
		}
	}()
	handler(e, apitest.NewSwarm()).ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), "GET", "/events", http.NoBody))
	t.Error("the stream ended as if it were whole")
}
