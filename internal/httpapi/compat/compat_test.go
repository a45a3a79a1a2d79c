package compat

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestVersions(t *testing.T) {
	for in, want := range map[string]Version{"1.56": {1, 56}, "1": {1, 0}, "1.2.3": {1, 2}, "": {}, ".": {}, "1.x": {1, 0}, "99999999999999999999.1": {0, 1}} {
		if got := Parse(in); got != want {
			t.Errorf("Parse(%q) = %v, want %v", in, got, want)
		}
	}
	if !(Version{1, 24}).Less(Version{1, 56}) || (Version{2, 0}).Less(Version{1, 56}) || Newest.Less(Newest) {
		t.Error("the order is wrong")
	}
}

func TestResponse(t *testing.T) {
	for _, c := range []struct{ name, route, version, in, want string }{
		{"the newest is untouched", "GET /info", "1.56", `{"Containerd":{}, "x": 1}`, `{"Containerd":{}, "x": 1}`},
		{"a route without rules is untouched", "GET /nodes", "1.24", `[ ]`, `[ ]`},
		{"a field that is new goes", "GET /info", "1.45", `{"Containerd":{},"RegistryConfig":{}}`,
			`{"BridgeNfIp6tables":false,"BridgeNfIptables":false,"RegistryConfig":{"AllowNondistributableArtifactsCIDRs":null,"AllowNondistributableArtifactsHostnames":null}}`},
		{"in every value of a map", "GET /info", "1.43", `{"Runtimes":{"runc":{"path":"r","status":{}}}}`,
			`{"BridgeNfIp6tables":false,"BridgeNfIptables":false,"Runtimes":{"runc":{"path":"r"}}}`},
		{"the version of the change itself", "GET /info", "1.50", `{"FirewallBackend":{},"NRI":{}}`, `{"FirewallBackend":{}}`},
		{"a field beside another", "GET /info", "1.48", `{"RuncCommit":{"ID":"a"}}`,
			`{"BridgeNfIp6tables":false,"BridgeNfIptables":false,"RuncCommit":{"Expected":"a","ID":"a"}}`},
		{"in every element of a list; large numbers stay", "GET /images/json", "1.43", `[{"Size":9007199254740993,"Descriptor":{}}]`,
			`[{"Containers":-1,"Size":9007199254740993,"VirtualSize":9007199254740993}]`},
		{"from deep below", "GET /containers/{name*}/json", "1.51", `{"GraphDriver":{"Name":"x"},"Storage":{},"NetworkSettings":{"Networks":{"bridge":{"IPAddress":"10.0.0.2"}}}}`,
			`{"GraphDriver":{"Name":"x"},"NetworkSettings":{"IPAddress":"10.0.0.2","Networks":{"bridge":{"IPAddress":"10.0.0.2"}}}}`},
		{"events for old clients", "GET /events", "1.51", `{"Type":"container","Action":"die","Actor":{"ID":"c","Attributes":{"image":"hello:1"}}}`,
			`{"Action":"die","Actor":{"Attributes":{"image":"hello:1"},"ID":"c"},"Type":"container","from":"hello:1","id":"c","status":"die"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Response(c.route, Parse(c.version), []byte(c.in))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, trim(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func trim(b []byte) string {
	if n := len(b); n > 0 && b[n-1] == '\n' {
		b = b[:n-1]
	}
	return string(b)
}

func TestRequest(t *testing.T) {
	const spec = `{"Mode":{"ReplicatedJob":{}},"Name":"a","TaskTemplate":{"Placement":{"MaxReplicas":2}}}`
	for version, want := range map[string]string{
		"1.56": spec,
		"1.41": spec,
		"1.40": `{"Mode":{},"Name":"a","TaskTemplate":{"Placement":{"MaxReplicas":2}}}`,
		"1.39": `{"Mode":{},"Name":"a","TaskTemplate":{"Placement":{}}}`,
	} {
		got, err := Request("POST /services/create", Parse(version), []byte(spec))
		if err != nil || trim(got) != want {
			t.Errorf("%s: %s, %v", version, got, err)
		}
	}
	if !Touches("POST /services/create", Parse("1.40")) || Touches("POST /services/create", Newest) || Touches("GET /info", Parse("1.30")) {
		t.Error("Touches is wrong")
	}
	if _, err := Request("POST /services/create", Parse("1.40"), []byte("{")); err == nil {
		t.Error("broken JSON passes")
	}
}

// TestAnyJSON shows that no shape of a document breaks the tables, and that applying them twice changes nothing more.
func TestAnyJSON(t *testing.T) {
	values := rapid.SampledFrom([]any{nil, 1, "x", []any{}, map[string]any{}, []any{1, map[string]any{"Size": 1}}, map[string]any{"bridge": 1, "ID": "x", "*": nil}})
	keys := rapid.SampledFrom([]string{"Runtimes", "RegistryConfig", "RuncCommit", "NetworkSettings", "Networks", "Actor", "Storage", "ContainerConfig"})
	rapid.Check(t, func(t *rapid.T) {
		doc, err := json.Marshal(rapid.MapOf(keys, values).Draw(t, "doc"))
		if err != nil {
			t.Fatal(err)
		}
		v := Version{1, rapid.IntRange(24, 56).Draw(t, "minor")}
		route := rapid.SampledFrom(responseRules).Draw(t, "rule").Route
		once, err := Response(route, v, doc)
		if err != nil {
			t.Fatal(err)
		}
		twice, err := Response(route, v, once)
		if err != nil || trim(twice) != trim(once) {
			t.Fatalf("%s at %s of %s: %s, then %s, %v", route, v, doc, once, twice, err)
		}
	})
}
