package httpapi_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/httpapi"
	"shoal.dev/shoal/internal/httpapi/apitest"
)

func handler(e *apitest.Engine, s *apitest.Swarm) http.Handler {
	return httpapi.New(httpapi.Config{
		Containers: e, Images: e, Volumes: e, Disk: e, Events: e, Usage: e, Host: apitest.Host{}, Swarm: s, Upkeep: s, Scheduler: s, Jobs: s, Control: s, TaskLogs: s, Networks: &apitest.Networks{}, Version: "0.1.0",
	})
}

func ask(t *testing.T, h http.Handler, method, path, contentType, body string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	var r *http.Request
	if body == "" {
		r = httptest.NewRequestWithContext(t.Context(), method, path, http.NoBody)
	} else {
		r = httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func messageOf(t *testing.T, w *httptest.ResponseRecorder) string {
	t.Helper()
	var m struct{ Message string }
	if err := json.Unmarshal(w.Body.Bytes(), &m); err != nil {
		t.Fatalf("the body is no JSON: %q", w.Body)
	}
	return m.Message
}

const js = "application/json"

func TestBadInput(t *testing.T) {
	for _, c := range []struct {
		name, method, path, contentType, body string
		status                                int
		message                               string // its beginning
	}{
		{"unknown route", "GET", "/v1.56/nothing", "", "", 404, "page not found"},
		{"unknown route without a version", "GET", "/nothing", "", "", 404, "page not found"},
		{"wrong method", "PUT", "/services/create", js, "{}", 404, "page not found"},
		{"only a version", "GET", "/v1.56", "", "", 404, "page not found"},
		{"a version that is no number", "GET", "/vx/info", "", "", 404, "page not found"},
		{"too new", "GET", "/v1.99/info", "", "", 400, "client version 1.99 is too new. Maximum supported API version is 1.56"},
		{"too new by its first number", "GET", "/v2.0/info", "", "", 400, "client version 2.0 is too new. Maximum supported API version is 1.56"},
		{"too old", "GET", "/v1.23/info", "", "", 400, "client version 1.23 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version"},
		{"no version at all", "GET", "/v./info", "", "", 400, "client version . is too old."},
		{"malformed JSON", "POST", "/services/create", js, `{"Name":`, 400, "invalid JSON: unexpected EOF"},
		{"JSON of another type", "POST", "/services/create", js, `{"Name":7}`, 400, "invalid JSON: json: cannot unmarshal number into Go struct field"},
		{"two JSON values", "POST", "/services/create", js, `{} {}`, 400, "unexpected content after JSON"},
		{"only space", "POST", "/services/create", js, ` `, 400, "invalid JSON: got EOF while reading request body"},
		{"an older version's malformed JSON", "POST", "/v1.24/services/create", js, `{"Name":`, 400, "invalid JSON: unexpected EOF"},
		{"no content type", "POST", "/services/create", "", `{}`, 400, "malformed Content-Type header (): mime: no media type"},
		{"another content type", "POST", "/services/create", "text/plain", `{}`, 400, "unsupported Content-Type header (text/plain): must be 'application/json'"},
		{"malformed content type", "POST", "/services/create", "a/b/c", `{}`, 400, "malformed Content-Type header (a/b/c): "},
		{"a body over the limit", "POST", "/services/create", js, `{"Name":"` + strings.Repeat("x", httpapi.MaxJSON) + `"}`, 413, "request body too large: a JSON body may have at most 4194304 bytes"},
		{"a query that is none", "GET", "/services?a=%zz", "", "", 400, "invalid URL escape"},
		{"filters that are no JSON", "GET", "/services?filters=x", "", "", 400, "invalid filter"},
		{"filters of another shape", "GET", `/nodes?filters={"a":7}`, "", "", 400, "invalid filter"},
		{"an unknown filter", "GET", `/containers/json?filters={"x":{"y":true}}`, "", "", 400, "invalid filter 'x'"},
		{"an unknown filter of events", "GET", `/events?filters={"x":["y"]}`, "", "", 400, "invalid filter 'x'"},
		{"a limit that is no number", "GET", "/containers/json?limit=x", "", "", 400, "invalid value for limit: x"},
		{"status that is no bool", "GET", "/services?status=x", "", "", 400, "invalid value for status: x"},
		{"no version of a service", "POST", "/services/a/update", js, `{}`, 400, "invalid service version ''"},
		{"a negative version of a swarm", "POST", "/swarm/update?version=-1", js, `{}`, 400, "invalid swarm version '-1'"},
		{"a version of a node that is no number", "POST", "/nodes/a/update?version=x", js, `{}`, 400, "invalid node version 'x'"},
		{"a rotated unlock key that is no bool", "POST", "/swarm/update?version=1&rotateManagerUnlockKey=x", js, `{}`, 400, "invalid value for rotateManagerUnlockKey: x"},
		{"a key for what is not locked", "POST", "/swarm/unlock", js, `{"UnlockKey":"SWMKEY-1-x"}`, 409, "swarm is not locked"},
		{"a key that is none", "POST", "/swarm/unlock", js, `{"UnlockKey":`, 400, "invalid JSON: unexpected EOF"},
		{"rotate that is no bool", "POST", "/swarm/update?version=1&rotateWorkerToken=x", js, `{}`, 400, "invalid value for rotateWorkerToken: x"},
		{"unknown rollback", "POST", "/services/a/update?version=7&rollback=x", js, `{}`, 400, "unrecognized rollback option x"},
		{"unknown place of credentials", "POST", "/services/a/update?version=7&registryAuthFrom=x", js, `{}`, 400, "unsupported registryAuthFrom value: x"},
		{"no container config", "POST", "/containers/create", js, `{}`, 400, "config cannot be empty in order to create a container"},
		{"no body for a container", "POST", "/containers/create", js, ``, 400, "invalid JSON: got EOF while reading request body"},
		{"an unknown image", "POST", "/containers/create", js, `{"Image":"nothing"}`, 404, "No such image: nothing"},
		{"two networks in an old version", "POST", "/v1.43/containers/create", js, `{"Image":"hello:1","NetworkingConfig":{"EndpointsConfig":{"mine":{},"hers":{}}}}`, 400, "Container cannot be connected to network endpoints: hers, mine"},
		{"a network with a taken name", "POST", "/networks/create", js, `{"Name":"bridge"}`, 403, "operation is not permitted on predefined bridge network "},
		{"a network without a name", "POST", "/networks/create", js, `{}`, 400, "invalid name: name is empty"},
		{"a network of another driver", "POST", "/networks/create", js, `{"Name":"a","Driver":"rex"}`, 404, `could not find plugin rex in v1 plugin registry: plugin not found`},
		{"an overlay network of one host", "POST", "/networks/create", js, `{"Name":"a","Driver":"overlay"}`, 400, "a network of the driver overlay is the swarm's"},
		{"a subnet that is none", "POST", "/networks/create", js, `{"Name":"a","IPAM":{"Config":[{"Subnet":"10.0.0.0/33"}]}}`, 400, "invalid JSON"},
		{"a subnet with host bits", "POST", "/networks/create", js, `{"Name":"a","IPAM":{"Config":[{"Subnet":"10.0.0.1/24"}]}}`, 400, "invalid network config:\ninvalid subnet 10.0.0.1/24: it should be 10.0.0.0/24"},
		{"removal of a network that every host has", "DELETE", "/networks/host", "", "", 403, "host is a pre-defined network and cannot be removed"},
		{"removal of no network", "DELETE", "/networks/nothing", "", "", 404, "network nothing not found"},
		{"a network filter", "GET", "/networks?filters={%22x%22:[%22y%22]}", "", "", 400, "invalid filter 'x'"},
		{"a network filter's value", "GET", "/networks?filters={%22type%22:[%22y%22]}", "", "", 400, "invalid value for filter 'type': must be 'builtin' or 'custom'"},
		{"a filter of pruned networks", "POST", "/networks/prune?filters={%22x%22:[%22y%22]}", "", "", 400, "invalid filter 'x'"},
		{"connect to no network", "POST", "/networks/nothing/connect", js, `{"Container":"a"}`, 404, "network nothing not found"},
		{"connect nobody", "POST", "/networks/bridge/connect", js, `{}`, 400, "invalid container: no container is named"},
		{"connect with a bad address", "POST", "/networks/bridge/connect", js, `{"Container":"a","EndpointConfig":{"IPAMConfig":{"IPv4Address":"x"}}}`, 400, "invalid JSON"},
		{"disconnect from no network", "POST", "/networks/nothing/disconnect", js, `{"Container":"a"}`, 404, "network nothing not found"},
		{"start with a config", "POST", "/containers/a/start", js, `{"Image":"x"}`, 400, "starting container with non-empty request body"},
		{"an unknown container", "POST", "/containers/a/start", "", "", 404, "No such container: a"},
		{"kill an unknown container", "POST", "/containers/a/kill", "", "", 404, "cannot kill container: a: No such container: a"},
		{"wait for an unknown container", "POST", "/containers/a/wait", "", "", 404, "No such container: a"},
		{"wait for something else", "POST", "/containers/a/wait?condition=x", "", "", 400, `invalid condition: "x"`},
		{"stop within no number", "POST", "/containers/a/stop?t=x", "", "", 400, "invalid value for t: x"},
		{"logs of no stream", "GET", "/containers/a/logs", "", "", 400, "Bad parameters: you must choose at least one stream"},
		{"logs since no time", "GET", "/containers/a/logs?stdout=1&since=yesterday", "", "", 400, `invalid value for "since": "yesterday" is not a time in Unix seconds, of RFC 3339 or a duration`},
		{"logs of an unknown container", "GET", "/containers/a/logs?stdout=1", "", "", 404, "No such container: a"},
		{"a bad image name", "POST", "/images/create?fromImage=UPPER", "", "", 400, "invalid reference format: repository name (library/UPPER) must be lowercase"},
		{"a bad tag", "POST", "/images/create?fromImage=a&tag=:x", "", "", 400, "invalid tag format"},
		{"a reserved image name", "POST", "/images/create?fromImage=scratch", "", "", 403, "'scratch' is a reserved name"},
		{"an image that no registry has", "POST", "/images/create?fromImage=absent", "", "", 404, "pull access denied for absent"},
		{"an import of nothing", "POST", "/images/create?fromSrc=-", "", "", 400, "cannot import: unexpected EOF"},
		{"an import from an address", "POST", "/images/create?fromSrc=http://a.test/x", "", "", 501, "importing an image from an address is not supported"},
		{"an import to a bad name", "POST", "/images/create?fromSrc=-&repo=UPPER", "", "x", 400, "invalid reference format: repository name (library/UPPER) must be lowercase"},
		{"an import to a digest", "POST", "/images/create?fromSrc=-&repo=a@sha256:" + strings.Repeat("a", 64), "", "x", 400, "cannot import digest reference"},
		{"a platform that is none", "POST", "/images/create?fromImage=a&platform=a/b/c/d", "", "", 400, `"a/b/c/d": cannot parse platform specifier`},
		{"push what is not there", "POST", "/images/none/push?tag=/", "", "", 400, "invalid tag format"},
		{"push for no platform", "POST", "/images/hello/push?tag=1&platform=x", "", "", 400, "failed to parse platform"},
		{"tag with nothing", "POST", "/images/hello:1/tag", "", "", 400, "invalid reference format"},
		{"tag with a digest", "POST", "/images/hello:1/tag?repo=a@sha256:" + strings.Repeat("a", 64), "", "", 400, "cannot import digest reference"},
		{"tag badly", "POST", "/images/hello:1/tag?repo=a&tag=/", "", "", 400, "invalid tag format"},
		{"tag what is not there", "POST", "/images/none/tag?repo=a", "", "", 404, "No such image: none"},
		{"history of what is not there", "GET", "/images/none/history", "", "", 404, "No such image: none"},
		{"history for half a platform", "GET", `/images/hello:1/history?platform={"os":"linux"}`, "", "", 400, "both OS and Architecture must be provided"},
		{"an image for another platform", "GET", `/images/hello:1/json?platform={"os":"linux","architecture":"s390x"}`, "", "", 404, "image with reference hello:1 was found but does not provide the specified platform (linux/s390x)"},
		{"a platform and all", "GET", `/images/hello:1/json?manifests=1&platform={"os":"linux","architecture":"amd64"}`, "", "", 400, "conflicting options"},
		{"save what is not there", "GET", "/images/get?names=hello:1&names=none", "", "", 404, "No such image: none"},
		{"save nothing", "GET", "/images/get", "", "", 400, "image name cannot be blank"},
		{"save for two platforms, of old", "GET", `/v1.51/images/hello:1/get?platform={}&platform={}`, "", "", 400, "multiple platform parameters are not supported"},
		{"prune by an unknown filter", "POST", `/images/prune?filters={"colour":["red"]}`, "", "", 400, "invalid filter 'colour'"},
		{"a wrong password", "POST", "/auth", js, `{"username":"a","password":"b","serveraddress":"r.test"}`, 401, "login attempt to https://r.test/v2/ failed with status: 401 Unauthorized"},
		{"credentials that are none", "POST", "/auth", js, `[]`, 400, "invalid JSON"},
		{"the sizes of chairs", "GET", "/system/df?type=chair", "", "", 400, "unknown object type: chair"},
		{"sizes, somehow verbose", "GET", "/system/df?verbose=very", "", "", 400, "invalid value for verbose: very"},
		{"an archive that is none", "POST", "/images/load", "application/x-tar", "", 400, "invalid tar header"},
		{"remove no image", "DELETE", "/images/", "", "", 400, "image name cannot be blank"},
		{"an image that is not there", "GET", "/images/registry.example/a/b:1/json", "", "", 404, "No such image: registry.example/a/b:1"},
		{"since after until", "GET", "/events?since=9999999999&until=9999999998", "", "", 400, "`since` time (9999999999) cannot be after `until` time (9999999998)"},
		{"events until no time", "GET", "/events?until=1.0123456789", "", "", 400, `invalid value for "until": "1.0123456789" is not a time`},
		{"a second init", "POST", "/swarm/init", js, `{}`, 503, "This node is already part of a swarm."},
		{"a join that times out", "POST", "/swarm/join", js, `{"RemoteAddrs":["198.51.100.9:2377"]}`, 503, "Timeout was reached before node joined 198.51.100.9:2377"},
		{"leave as the last manager", "POST", "/swarm/leave", "", "", 503, "You are attempting to leave the swarm"},
		{"a name that is taken", "POST", "/services/create", js, `{"Name":"taken"}`, 409, "name conflicts with an existing object: service taken already exists"},
		{"an old version of a service", "POST", "/services/takenid/update?version=6", js, `{}`, 500, "update out of sequence"},
		{"an unknown service", "GET", "/services/nothing", "", "", 404, "service nothing not found"},
		{"an unknown task", "GET", "/tasks/nothing", "", "", 404, "task nothing not found"},
		{"an unknown network", "GET", "/networks/nothing", "", "", 404, "network nothing not found"},
		{"exec of nothing", "POST", "/containers/a/exec", js, "{}", 400, "No exec command specified"},
		{"exec in no container", "POST", "/containers/a/exec", js, `{"Cmd":["x"]}`, 404, "No such container: a"},
		{"start of no exec", "POST", "/exec/a/start", js, "{}", 404, "No such exec instance: a"},
		{"inspect of no exec", "GET", "/exec/a/json", "", "", 404, "No such exec instance: a"},
		{"resize of no exec", "POST", "/exec/a/resize?h=1&w=1", "", "", 404, "No such exec instance: a"},
		{"a size that is none", "POST", "/exec/a/resize?h=x&w=1", "", "", 400, "invalid resize height \"x\""},
		{"a size that is too large", "POST", "/containers/a/resize?h=1&w=65536", "", "", 400, "invalid resize width \"65536\""},
		{"attach to nothing", "POST", "/containers/a/attach?stream=1", "", "", 404, "No such container: a"},
		{"cluster volume", "PUT", "/volumes/a", "", "", 501, "updating a cluster volume is not supported: PUT /volumes/{name} is not implemented by Shoal yet"},
		{"volume", "GET", "/volumes/none", "", "", 404, "get none: no such volume"},
		{"volume of another driver", "POST", "/volumes/create", "application/json", `{"Name":"ab","Driver":"rex"}`, 404, `create ab: error looking up volume plugin rex: plugin "rex" not found`},
		{"volume's name", "POST", "/volumes/create", "application/json", `{"Name":"a/b"}`, 400, `create a/b: "a/b" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path`},
		{"volume filter", "GET", "/volumes?filters={%22x%22:[%22y%22]}", "", "", 400, "invalid filter 'x'"},
		{"prune filter", "POST", "/volumes/prune?filters={%22dangling%22:[%22true%22]}", "", "", 400, "invalid filter 'dangling'"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, s := apitest.NewEngine(), apitest.NewSwarm()
			s.Active = true
			h := handler(e, s)
			if w := ask(t, h, "POST", "/services/create", js, `{"Name":"taken"}`); w.Code != 201 {
				t.Fatal(w.Code, w.Body)
			}
			w := ask(t, h, c.method, c.path, c.contentType, c.body)
			if w.Code != c.status {
				t.Errorf("status %d, want %d; body %s", w.Code, c.status, w.Body)
			}
			if got := messageOf(t, w); !strings.HasPrefix(got, c.message) || c.message == "" {
				t.Errorf("message %q, want %q…", got, c.message)
			}
			if ct := w.Header().Get("Content-Type"); ct != js {
				t.Errorf("Content-Type %q", ct)
			}
			if len(s.ByName) != 1 || len(e.ByName) != 0 || len(e.ByRef) != 1 {
				t.Errorf("bad input changed something: %d services, %d containers, %d images", len(s.ByName), len(e.ByName), len(e.ByRef))
			}
		})
	}
}

// TestOutsideASwarm asks every route of the managers on a node that is none.
func TestOutsideASwarm(t *testing.T) {
	for _, worker := range []bool{false, true} {
		s := apitest.NewSwarm()
		s.Active, s.Worker = worker, worker
		h := handler(apitest.NewEngine(), s)
		for _, r := range [][3]string{
			{"GET", "/swarm"},
			{"POST", "/swarm/update?version=1", `{}`},
			{"GET", "/swarm/unlockkey"},
			{"GET", "/nodes"},
			{"GET", "/nodes/a"},
			{"DELETE", "/nodes/a"},
			{"POST", "/nodes/a/update?version=1", `{}`},
			{"GET", "/services"},
			{"GET", "/services/a"},
			{"DELETE", "/services/a"},
			{"POST", "/services/create", `{"Name":"a"}`},
			{"POST", "/services/a/update?version=1", `{}`},
			{"GET", "/tasks"},
			{"GET", "/services/a/logs?stdout=1"},
			{"GET", "/tasks/a/logs?stdout=1"},
			{"GET", "/secrets"},
			{"GET", "/secrets/a"},
			{"DELETE", "/secrets/a"},
			{"POST", "/secrets/create", `{"Name":"a","Data":"eA=="}`},
			{"POST", "/secrets/a/update?version=1", `{}`},
			{"GET", "/configs"},
			{"GET", "/configs/a"},
			{"DELETE", "/configs/a"},
			{"POST", "/configs/create", `{"Name":"a","Data":"eA=="}`},
			{"POST", "/configs/a/update?version=1", `{}`},
		} {
			w := ask(t, h, r[0], r[1], js, r[2])
			if w.Code != 503 || messageOf(t, w) != apitest.NotManager {
				t.Errorf("worker %v: %s %s answers %d %s", worker, r[0], r[1], w.Code, w.Body)
			}
		}
	}
}

// TestUnknownFields are passed over, as Docker does: a newer client may send what this API does not know.
func TestUnknownFields(t *testing.T) {
	s := apitest.NewSwarm()
	s.Active = true
	if w := ask(t, handler(apitest.NewEngine(), s), "POST", "/services/create", js+"; charset=utf-8", `{"Name":"a","FromTheFuture":{"x":[1]}}`); w.Code != 201 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestPanicDoesNotLeak(t *testing.T) {
	e := apitest.NewEngine()
	e.Panics = true
	var log strings.Builder
	h := httpapi.New(httpapi.Config{Containers: e, Log: slog.New(slog.NewTextHandler(&log, nil))})
	w := ask(t, h, "GET", "/containers/json", "", "")
	if w.Code != 500 || messageOf(t, w) != "internal server error" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if !strings.Contains(log.String(), "secret internals") {
		t.Errorf("the panic is not logged: %s", log.String())
	}
}

func TestNoBackend(t *testing.T) {
	h := httpapi.New(httpapi.Config{})
	for _, path := range []string{"/containers/json", "/images/json", "/services", "/nodes", "/swarm", "/networks", "/events"} {
		if w := ask(t, h, "GET", path, "", ""); w.Code != 501 {
			t.Errorf("%s answers %d %s", path, w.Code, w.Body)
		}
	}
	for _, path := range []string{"/_ping", "/version", "/info"} {
		if w := ask(t, h, "GET", path, "", ""); w.Code != 200 {
			t.Errorf("%s answers %d %s", path, w.Code, w.Body)
		}
	}
}

// TestDeadline shows that a backend that hangs does not hold a request for ever.
func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := apitest.NewEngine()
		e.Slow = true
		w := ask(t, handler(e, apitest.NewSwarm()), "GET", "/containers/json", "", "")
		if w.Code != 500 || messageOf(t, w) != "GET /containers/json took longer than 1m0s: context deadline exceeded" {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
}

// TestBuildPrune is what older clients ask for in every system prune.
func TestBuildPrune(t *testing.T) {
	w := ask(t, handler(apitest.NewEngine(), apitest.NewSwarm()), "POST", "/v1.50/build/prune?all=1", "", "")
	if w.Code != 200 || strings.TrimSpace(w.Body.String()) != `{"CachesDeleted":[],"SpaceReclaimed":0}` {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestPing(t *testing.T) {
	for name, c := range map[string]struct {
		active, worker bool
		want           string
	}{
		"outside":   {false, false, "inactive"},
		"worker":    {true, true, "active/worker"},
		"a manager": {true, false, "active/manager"},
	} {
		s := apitest.NewSwarm()
		s.Active, s.Worker = c.active, c.worker
		for _, method := range []string{"GET", "HEAD"} {
			w := ask(t, handler(apitest.NewEngine(), s), method, "/_ping", "", "")
			h := w.Header()
			if w.Code != 200 || h.Get("Swarm") != c.want || h.Get("Api-Version") != "1.56" || h.Get("Ostype") != "linux" ||
				h.Get("Docker-Experimental") != "false" || h.Get("Cache-Control") == "" || !strings.HasPrefix(h.Get("Server"), "Shoal/0.1.0") {
				t.Errorf("%s: %s: %d %v", name, method, w.Code, h)
			}
			if want := map[string]string{"GET": "OK"}[method]; w.Body.String() != want {
				t.Errorf("%s: body %q", method, w.Body)
			}
		}
	}
}

// TestLists are lists, never null.
func TestLists(t *testing.T) {
	e, s := apitest.NewEngine(), apitest.NewSwarm()
	s.Active = true
	e.ByRef = nil
	for _, path := range []string{"/containers/json", "/images/json", "/services", "/tasks"} {
		if w := ask(t, handler(e, s), "GET", path, "", ""); strings.TrimSpace(w.Body.String()) != "[]" {
			t.Errorf("%s: %s", path, w.Body)
		}
	}
}

func TestPullCredentials(t *testing.T) {
	for name, c := range map[string]struct {
		header string
		user   string
	}{
		"good":              {"eyJ1c2VybmFtZSI6InUiLCJwYXNzd29yZCI6InAifQ==", "u"},
		"none":              {"", ""},
		"empty":             {"e30=", ""},
		"no base64":         {"%%%", ""},
		"base64 of no JSON": {"YWJj", ""},
	} {
		e := apitest.NewEngine()
		w := ask(t, handler(e, apitest.NewSwarm()), "POST", "/images/create?fromImage=x&tag=1", "", "", "X-Registry-Auth", c.header)
		if w.Code != 200 {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
		if c.user == "" && e.Auth != nil || c.user != "" && (e.Auth == nil || e.Auth.Username != c.user) {
			t.Errorf("%s: credentials %+v", name, e.Auth)
		}
	}
}

func TestPullThatBreaksOff(t *testing.T) {
	w := ask(t, handler(apitest.NewEngine(), apitest.NewSwarm()), "POST", "/images/create?fromImage=broken", "", "")
	if w.Code != 200 || !strings.Contains(w.Body.String(), `"errorDetail":{"message":"the registry went away"},"error":"the registry went away"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestContainerDefaults(t *testing.T) {
	e := apitest.NewEngine()
	h := handler(e, apitest.NewSwarm())
	if w := ask(t, h, "POST", "/containers/create?name=a", js, `{"Image":"hello:1","HostConfig":{"NetworkMode":"default"}}`); w.Code != 201 {
		t.Fatal(w.Code, w.Body)
	}
	if m := e.ByName["a"].Spec.HostConfig.NetworkMode; m != "bridge" {
		t.Errorf("network mode %q", m)
	}
	for _, want := range []int{204, 304} {
		if w := ask(t, h, "POST", "/containers/a/start", "", ""); w.Code != want {
			t.Errorf("start: %d, want %d", w.Code, want)
		}
	}
	for _, want := range []int{204, 304} {
		if w := ask(t, h, "POST", "/containers/a/stop?t=1", "", ""); w.Code != want {
			t.Errorf("stop: %d, want %d", w.Code, want)
		}
	}
}

var _ engine.Engine = (*apitest.Engine)(nil)

// A handler that writes nothing has answered 200. A daemon that ends must not say so of what it did not do.
func TestWhatTheEndOfTheDaemonCutsOffIsNotAcknowledged(t *testing.T) {
	ctx, end := context.WithCancel(t.Context())
	end()
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/v1.1/services/create", strings.NewReader("{}"))
	httpapi.New(httpapi.Config{Log: slog.New(slog.DiscardHandler)}).ServeHTTP(w, r)
	if w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "the daemon stopped") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
