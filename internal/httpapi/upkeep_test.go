package httpapi_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/httpapi"
	"shoal.dev/shoal/internal/httpapi/apitest"
)

const backupType = "application/vnd.shoal.backup"

func TestHealth(t *testing.T) {
	sw := apitest.NewSwarm()
	h := handler(apitest.NewEngine(), sw)
	if w := ask(t, h, "GET", "/shoal/v1/swarm/health", "", ""); w.Code != 503 || !strings.Contains(messageOf(t, w), "not a swarm manager") {
		t.Errorf("on a node in no swarm: %d %s", w.Code, w.Body)
	}
	sw.Active = true
	w := ask(t, h, "GET", "/shoal/v1/swarm/health", "", "")
	var got httpapi.SwarmHealth
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 || got.Status != httpapi.StatusOK || len(got.Managers) != 1 || !got.Managers[0].Leader {
		t.Errorf("%d %v: %s", w.Code, err, w.Body)
	}
	if w := ask(t, httpapi.New(httpapi.Config{}), "GET", "/shoal/v1/swarm/health", "", ""); w.Code != 501 {
		t.Errorf("without a backend: %d", w.Code)
	}
}

func TestCheckNetworks(t *testing.T) {
	sw := apitest.NewSwarm()
	h := handler(apitest.NewEngine(), sw)
	for _, c := range []struct {
		name, query string
		active      bool
		status      int
		message     string
	}{
		{"in no swarm", "", false, 503, "This node is not a swarm manager."},
		{"no such network", "?network=gone", true, 404, "network gone not found"},
		{"one", "?network=shop", true, 200, ""},
		{"all", "", true, 200, ""},
	} {
		sw.Active = c.active
		w := ask(t, h, "GET", "/shoal/v1/networks/check"+c.query, "", "")
		if w.Code != c.status || c.message != "" && !strings.HasPrefix(messageOf(t, w), c.message) {
			t.Errorf("%s: %d %s", c.name, w.Code, w.Body)
		}
		var got httpapi.NetworkCheck
		if err := json.Unmarshal(w.Body.Bytes(), &got); c.status == 200 && (err != nil || len(got.Networks) != 1 || got.Networks[0].Name != "shop") {
			t.Errorf("%s: %v %s", c.name, err, w.Body)
		}
	}
}

func TestReaddress(t *testing.T) {
	sw := apitest.NewSwarm()
	h := handler(apitest.NewEngine(), sw)
	for _, c := range []struct {
		name, query string
		active      bool
		status      int
		message     string
	}{
		{"in no swarm", "?advertise=198.51.100.9", false, 503, "This node is not a swarm manager."},
		{"no address", "", true, 400, "advertise address must be"},
		{"a bad address", "?advertise=a/b", true, 400, "advertise address must be"},
		{"an address", "?advertise=198.51.100.9:2377", true, 200, ""},
	} {
		sw.Active = c.active
		w := ask(t, h, "POST", "/shoal/v1/swarm/address"+c.query, "", "")
		if w.Code != c.status || c.message != "" && !strings.HasPrefix(messageOf(t, w), c.message) {
			t.Errorf("%s: %d %s", c.name, w.Code, w.Body)
		}
	}
}

func TestBackupAndRestore(t *testing.T) {
	sw := apitest.NewSwarm()
	h := handler(apitest.NewEngine(), sw)
	if w := ask(t, h, "GET", "/shoal/v1/swarm/backup", "", ""); w.Code != 503 || !strings.Contains(messageOf(t, w), "not a swarm manager") {
		t.Errorf("a backup of no swarm: %d %s", w.Code, w.Body)
	}
	sw.Active = true
	got := ask(t, h, "GET", "/shoal/v1/swarm/backup", "", "")
	if got.Code != 200 || got.Header().Get("Content-Type") != backupType {
		t.Fatalf("a backup: %d %v", got.Code, got.Header())
	}
	for _, c := range []struct {
		name, path, contentType, body string
		active                        bool
		status                        int
		message                       string
	}{
		{"on a node in a swarm", "", backupType, got.Body.String(), true, 503, "This node is already part of a swarm."},
		{"no content type", "", "", got.Body.String(), false, 400, "unsupported Content-Type header ()"},
		{"JSON", "", js, "{}", false, 400, "unsupported Content-Type header (application/json): must be 'application/vnd.shoal.backup'"},
		{"no backup", "", backupType, "x", false, 400, "not a backup"},
		{"a bad address", "?advertise=a/b", backupType, got.Body.String(), false, 400, "advertise address must be"},
		{"a backup", "?advertise=198.51.100.1", backupType, got.Body.String(), false, 200, ""},
	} {
		sw.Active = c.active
		w := ask(t, h, "POST", "/shoal/v1/swarm/restore"+c.path, c.contentType, c.body)
		if w.Code != c.status || c.message != "" && !strings.HasPrefix(messageOf(t, w), c.message) {
			t.Errorf("%s: %d %s", c.name, w.Code, w.Body)
		}
	}
	if w := ask(t, httpapi.New(httpapi.Config{}), "GET", "/shoal/v1/swarm/backup", "", ""); w.Code != 501 {
		t.Errorf("without a backend: %d", w.Code)
	}
	// One that fails on the way is cut off, not ended.
	sw.ByName[apitest.Torn] = swarm.Service{}
	srv := httptest.NewServer(h)
	defer srv.Close()
	resp, err := http.Get(srv.URL + "/shoal/v1/swarm/backup")
	if err != nil {
		return // cut off before the head: as good
	}
	defer resp.Body.Close()
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("a backup that failed ended well")
	}
}
