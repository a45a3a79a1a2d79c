package httpapi_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"

	"shoal.dev/shoal/internal/httpapi/apitest"
)

func TestClientSecretsAndConfigs(t *testing.T) {
	s := apitest.NewSwarm()
	s.Active = true
	c, ctx := dial(t, handler(apitest.NewEngine(), s))
	spec := swarm.SecretSpec{Annotations: swarm.Annotations{Name: "pass", Labels: map[string]string{"a": "1"}}, Data: []byte("hunter2")}
	made, err := c.SecretCreate(ctx, client.SecretCreateOptions{Spec: spec})
	if err != nil || len(made.ID) != 25 {
		t.Fatalf("create %+v, %v", made, err)
	}
	got, err := c.SecretInspect(ctx, "pass", client.SecretInspectOptions{})
	if err != nil || got.Secret.ID != made.ID || got.Secret.Spec.Data != nil || bytes.Contains(got.Raw, []byte("aHVudGVyMg")) {
		t.Fatalf("inspect %s, %v", got.Raw, err)
	}
	next := got.Secret.Spec
	next.Labels = map[string]string{"a": "2"}
	if _, err := c.SecretUpdate(ctx, made.ID, client.SecretUpdateOptions{Version: got.Secret.Version, Spec: next}); err != nil {
		t.Fatal(err)
	}
	next.Data = []byte("other")
	got, _ = c.SecretInspect(ctx, made.ID, client.SecretInspectOptions{})
	if _, err := c.SecretUpdate(ctx, made.ID, client.SecretUpdateOptions{Version: got.Secret.Version, Spec: next}); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "only updates to Labels are allowed") {
		t.Errorf("new bytes: %v", err)
	}
	ls, err := c.SecretList(ctx, client.SecretListOptions{Filters: client.Filters{}.Add("label", "a=2").Add("names", "pass")})
	if err != nil || len(ls.Items) != 1 || ls.Items[0].Spec.Labels["a"] != "2" {
		t.Errorf("list %+v, %v", ls, err)
	}
	if _, err := c.SecretRemove(ctx, "pass", client.SecretRemoveOptions{}); err != nil {
		t.Error(err)
	}

	conf, err := c.ConfigCreate(ctx, client.ConfigCreateOptions{Spec: swarm.ConfigSpec{Annotations: swarm.Annotations{Name: "page"}, Data: []byte("hello")}})
	if err != nil {
		t.Fatal(err)
	}
	in, err := c.ConfigInspect(ctx, "page", client.ConfigInspectOptions{})
	if err != nil || in.Config.ID != conf.ID || string(in.Config.Spec.Data) != "hello" {
		t.Fatalf("inspect %+v, %v", in, err)
	}
	in.Config.Spec.Labels = map[string]string{"x": "y"}
	if _, err := c.ConfigUpdate(ctx, conf.ID, client.ConfigUpdateOptions{Version: in.Config.Version, Spec: in.Config.Spec}); err != nil {
		t.Error(err)
	}
	confs, err := c.ConfigList(ctx, client.ConfigListOptions{Filters: client.Filters{}.Add("name", "pa")})
	if err != nil || len(confs.Items) != 1 || confs.Items[0].Spec.Labels["x"] != "y" {
		t.Errorf("list %+v, %v", confs, err)
	}
	if _, err := c.ConfigRemove(ctx, "page", client.ConfigRemoveOptions{}); err != nil {
		t.Error(err)
	}
}

func TestBadSecretsAndConfigs(t *testing.T) {
	s := apitest.NewSwarm()
	s.Active = true
	h := handler(apitest.NewEngine(), s)
	big := strings.Repeat("QUFB", 1024000/3+1)
	for _, kind := range []string{"secret", "config"} {
		if w := ask(t, h, "POST", "/"+kind+"s/create", js, `{"Name":"a","Data":"eA=="}`); w.Code != 201 {
			t.Fatalf("create answers %d %s", w.Code, w.Body)
		}
		for _, c := range []struct {
			name, method, path, body string
			status                   int
			message                  string
		}{
			{"no name", "POST", "/create", `{"Data":"eA=="}`, 400, "name must be provided"},
			{"a bad name", "POST", "/create", `{"Name":"a b","Data":"eA=="}`, 400, "invalid name, only 64 [a-zA-Z0-9-_.] characters allowed"},
			{"a long name", "POST", "/create", `{"Name":"` + strings.Repeat("a", 65) + `","Data":"eA=="}`, 400, "invalid name, only 64"},
			{"no data", "POST", "/create", `{"Name":"b"}`, 400, kind + " data must be larger than 0 and less than "},
			{"too much data", "POST", "/create", `{"Name":"b","Data":"` + big + `"}`, 400, kind + " data must be larger than 0 and less than "},
			{"data that is no base64", "POST", "/create", `{"Name":"b","Data":"%"}`, 400, "invalid JSON: "},
			{"a name that is taken", "POST", "/create", `{"Name":"a","Data":"eA=="}`, 409, kind + " a already exists"},
			{"an unknown template driver", "POST", "/create", `{"Name":"b","Data":"eA==","Templating":{"Name":"x"}}`, 400, `unrecognized template type "x"`},
			{"no version", "POST", "/a/update", `{"Name":"a"}`, 400, "invalid " + kind + " version ''"},
			{"a stale version", "POST", "/a/update?version=1", `{"Name":"a"}`, 500, "update out of sequence"},
			// No ID begins like this name: one of one letter would now and then.
			{"nothing to update", "POST", "/no-such/update?version=1", `{"Name":"b"}`, 404, kind + " no-such not found"},
			{"nothing to inspect", "GET", "/no-such", "", 404, kind + " no-such not found"},
			{"nothing to remove", "DELETE", "/no-such", "", 404, kind + " no-such not found"},
			{"an unknown filter", "GET", `?filters={"x":["y"]}`, "", 400, "invalid filter 'x'"},
			{"filters that are none", "GET", `?filters=x`, "", 400, "invalid filter"},
		} {
			t.Run(kind+"/"+c.name, func(t *testing.T) {
				contentType := js
				if c.body == "" {
					contentType = ""
				}
				w := ask(t, h, c.method, "/"+kind+"s"+c.path, contentType, c.body)
				if w.Code != c.status || !strings.HasPrefix(messageOf(t, w), c.message) {
					t.Errorf("answers %d %s", w.Code, w.Body)
				}
			})
		}
		w := ask(t, h, "POST", "/v1.36/"+kind+"s/create", js, `{"Name":"b","Data":"eA==","Templating":{"Name":"golang"}}`)
		if w.Code != 400 || messageOf(t, w) != kind+" templating is not supported on the specified API version: 1.36" {
			t.Errorf("an old client's template: %d %s", w.Code, w.Body)
		}
	}
}

func TestRotate(t *testing.T) {
	s := apitest.NewSwarm()
	h := handler(apitest.NewEngine(), s)
	for _, kind := range []string{"secret", "config"} {
		base := "/shoal/v1/" + kind + "s"
		s.Active = false
		if w := ask(t, h, "POST", base+"/a/rotate", js, `{"Data":"eA=="}`); w.Code != 503 {
			t.Errorf("on a node in no swarm: %d %s", w.Code, w.Body)
		}
		s.Active = true
		if w := ask(t, h, "POST", "/"+kind+"s/create", js, `{"Name":"a","Data":"eA=="}`); w.Code != 201 {
			t.Fatalf("create answers %d %s", w.Code, w.Body)
		}
		for _, c := range []struct {
			name, method, path, body string
			status                   int
			want                     string
		}{
			{"the same bytes", "POST", "/a/rotate", `{"Data":"eA=="}`, 200, `"Updated":false`},
			{"other bytes", "POST", "/a/rotate", `{"Data":"eQ=="}`, 200, `"Version":2,"Updated":true`},
			{"an older version", "POST", "/a.v1/rotate", `{"Data":"eA=="}`, 400, kind + " a.v1 is an older version of " + kind + " a: rotate that"},
			{"no bytes", "POST", "/a/rotate", `{}`, 400, kind + " data must be larger than 0 and less than "},
			{"bytes that are no base64", "POST", "/a/rotate", `{"Data":"%"}`, 400, "invalid JSON: "},
			{"what is not there", "POST", "/no-such/rotate", `{"Data":"eA=="}`, 404, kind + " no-such not found"},
			{"versions", "GET", "/a/versions", "", 200, `"Name":"a.v1","Version":1,"Current":false`},
			{"versions of nothing", "GET", "/no-such/versions", "", 404, kind + " no-such not found"},
		} {
			contentType := js
			if c.body == "" {
				contentType = ""
			}
			if w := ask(t, h, c.method, base+c.path, contentType, c.body); w.Code != c.status || !strings.Contains(w.Body.String(), c.want) {
				t.Errorf("%s, %s: %d %s", kind, c.name, w.Code, w.Body)
			}
		}
	}
}
