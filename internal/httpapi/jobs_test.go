package httpapi_test

import (
	"strings"
	"testing"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/httpapi"
	"shoal.dev/shoal/internal/httpapi/apitest"
)

func TestJobs(t *testing.T) {
	sw := apitest.NewSwarm()
	h := handler(apitest.NewEngine(), sw)
	for _, r := range [][2]string{{"GET", "/shoal/v1/schedules"}, {"GET", "/shoal/v1/services/nightly/schedule"}, {"POST", "/shoal/v1/services/nightly/run"}} {
		if w := ask(t, h, r[0], r[1], "", ""); w.Code != 503 || !strings.Contains(messageOf(t, w), "not a swarm manager") {
			t.Errorf("%s on a node in no swarm: %d %s", r, w.Code, w.Body)
		}
		if w := ask(t, httpapi.New(httpapi.Config{}), r[0], r[1], "", ""); w.Code != 501 {
			t.Errorf("%s without a backend: %d", r, w.Code)
		}
	}
	sw.Active = true
	nightly := swarm.Service{ID: "nightlyid"}
	nightly.Spec.Name, nightly.Spec.Labels = "nightly", map[string]string{"shoal.schedule": "@daily"}
	web := swarm.Service{ID: "webid"}
	web.Spec.Name = "web"
	sw.ByName["nightly"], sw.ByName["web"] = nightly, web
	for _, c := range []struct {
		name, method, path string
		status             int
		want               string
	}{
		{"all", "GET", "/shoal/v1/schedules", 200, `"ServiceName":"nightly"`},
		{"one", "GET", "/shoal/v1/services/nightly/schedule", 200, `"Next":"2023-11-14T23:13:20Z"`},
		{"one that has none", "GET", "/shoal/v1/services/web/schedule", 400, "service web has no schedule"},
		{"one that is not there", "GET", "/shoal/v1/services/nope/schedule", 404, "service nope not found"},
		{"run", "POST", "/shoal/v1/services/nightly/run", 200, `{"Run":2}`},
		{"run what is not there", "POST", "/shoal/v1/services/nope/run", 404, "service nope not found"},
		{"inspect shows it", "GET", "/services/nightly", 200, `"Schedule":{"ServiceID":"nightlyid"`},
	} {
		if w := ask(t, h, c.method, c.path, "", ""); w.Code != c.status || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("%s: %d %s", c.name, w.Code, w.Body)
		}
	}
	if w := ask(t, h, "GET", "/services/web", "", ""); strings.Contains(w.Body.String(), "Schedule") {
		t.Errorf("a service without: %s", w.Body)
	}
}
