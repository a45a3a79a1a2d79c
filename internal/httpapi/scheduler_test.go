package httpapi_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/httpapi"
	"shoal.dev/shoal/internal/httpapi/apitest"
)

func TestExplain(t *testing.T) {
	sw := apitest.NewSwarm()
	h := handler(apitest.NewEngine(), sw)
	explain := func(name string) (int, string) {
		w := ask(t, h, http.MethodGet, "/shoal/v1/services/"+name+"/explain", "", "")
		return w.Code, w.Body.String()
	}
	if code, body := explain("web"); code != 503 || !strings.Contains(body, "not a swarm manager") {
		t.Errorf("on a node in no swarm: %d %s", code, body)
	}
	sw.Active = true
	if code, body := explain("web"); code != 404 || !strings.Contains(body, "service web not found") {
		t.Errorf("no service: %d %s", code, body)
	}
	ask(t, h, http.MethodPost, "/services/create", "application/json", `{"Name":"web","TaskTemplate":{"ContainerSpec":{"Image":"hello:1"}}}`)
	code, body := explain("web")
	var got cluster.Explanation
	if err := json.Unmarshal([]byte(body), &got); err != nil || code != 200 || got.ServiceName != "web" || len(got.Nodes) != 2 || got.Nodes[1].Filter != "resources" {
		t.Errorf("%d %v %s", code, err, body)
	}
	if w := ask(t, httpapi.New(httpapi.Config{}), http.MethodGet, "/shoal/v1/services/web/explain", "", ""); w.Code != 501 {
		t.Errorf("without a backend: %d", w.Code)
	}
}
