package template_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/template"
)

func task() *cluster.Task {
	t := &cluster.Task{ServiceName: "web"}
	t.ID, t.ServiceID, t.NodeID, t.Slot = "t1", "s1", "n1", 3
	t.Labels = map[string]string{"tier": "front"}
	t.Spec.ContainerSpec = &swarm.ContainerSpec{
		Env:      []string{"NAME={{.Task.Name}}", "PLAIN=x", "UNSET"},
		Hostname: "{{.Node.Hostname}}-{{.Task.Slot}}",
		Mounts: []mount.Mount{{
			Type: mount.TypeVolume, Source: "data-{{.Task.Slot}}", Target: "/{{.Service.Name}}",
			VolumeOptions: &mount.VolumeOptions{Labels: map[string]string{"of": "{{.Service.ID}}"}, DriverConfig: &mount.Driver{Options: map[string]string{"o": "{{.Node.ID}}"}}},
		}},
		Secrets: []*swarm.SecretReference{{SecretID: "sec1", SecretName: "pass", File: &swarm.SecretReferenceFileTarget{Name: "password"}}},
		Configs: []*swarm.ConfigReference{{ConfigID: "con1", ConfigName: "page", File: &swarm.ConfigReferenceFileTarget{Name: "/etc/page"}}},
	}
	return t
}

var node = template.Node{ID: "n1", Hostname: "host1", OS: "linux", Architecture: "x86_64"}

func files() template.Files {
	get := func(want, data string) func(string) ([]byte, bool) {
		return func(id string) ([]byte, bool) { return []byte(data), id == want }
	}
	return template.Files{Secret: get("sec1", "hunter2"), Config: get("con1", "a page")}
}

func TestContainer(t *testing.T) {
	in := task()
	before := in.Clone()
	got, err := template.Container(in, node)
	if err != nil {
		t.Fatal(err)
	}
	want := *task().Spec.ContainerSpec
	want.Env = []string{"NAME=web.3.t1", "PLAIN=x", "UNSET"}
	want.Hostname = "host1-3"
	want.Mounts = []mount.Mount{{
		Type: mount.TypeVolume, Source: "data-3", Target: "/web",
		VolumeOptions: &mount.VolumeOptions{Labels: map[string]string{"of": "s1"}, DriverConfig: &mount.Driver{Options: map[string]string{"o": "n1"}}},
	}}
	if d := cmp.Diff(&want, got); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(before.(*cluster.Task).Spec, in.Spec); d != "" {
		t.Errorf("the task was changed: %s", d)
	}
	in.Slot = 0
	if got, err = template.Container(in, node); err != nil || got.Hostname != "host1-n1" {
		t.Errorf("a task of a global service: %q, %v", got.Hostname, err)
	}
}

func TestPayloads(t *testing.T) {
	for text, want := range map[string]string{
		"no template": "no template",
		`{{.Service.Name}} {{.Service.Labels.tier}} {{.Node.Platform.OS}}/{{.Node.Platform.Architecture}}`: "web front linux/x86_64",
		`{{env "NAME"}}|{{env "NONE"}}|{{secret "password"}}|{{config "/etc/page"}}`:                       "web.3.t1||hunter2|a page",
		`{{range $k, $v := .Service.Labels}}{{$k}}={{$v}};{{end}}`:                                         "tier=front;",
		`{{join "-" "a" "b"}} {{printf "%05d" 7}} {{if eq .Task.Slot "3"}}third{{else}}other{{end}}`:       "a-b 00007 third",
	} {
		got, err := template.Config(task(), node, files(), []byte(text))
		if err != nil || string(got) != want {
			t.Errorf("%s gives %q, %v", text, got, err)
		}
		if got, err = template.Secret(task(), node, files(), []byte(text)); err != nil || string(got) != want {
			t.Errorf("as a secret %s gives %q, %v", text, got, err)
		}
	}
}

func TestTemplatesThatCannotBe(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"no end":                 {"{{.Service.Name", "unclosed action"},
		"unknown field":          {"{{.Service.Owner}}", "can't evaluate field Owner"},
		"unknown label":          {"{{.Service.Labels.none}}", "map has no entry for key"},
		"unknown function":       {`{{exec "rm"}}`, `function "exec" not defined`},
		"a config of others":     {`{{config "other"}}`, "config target other not found"},
		"a loop without end":     {`{{range 1000000000000}}{{end}}`, "steps"},
		"a loop that writes":     {`{{range 1000000000000}}xxxxxxxxxxxxxxxxxxxxxxxxx{{end}}`, "the template "},
		"a call of itself":       {`{{define "a"}}{{template "a"}}{{end}}{{template "a"}}`, "steps"},
		"calls that double":      {doubling(), "steps"},
		"a variable that grows":  {`{{$x := "aaaaaaaaaaaaaaaa"}}{{range 1000}}{{$x = print $x $x}}{{end}}`, "the template "},
		"a wide field":           {`{{printf "%999999d" 1}}`, "printf"},
		"a width of an argument": {`{{printf "%*d" 999999 1}}`, "printf"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := template.Config(task(), node, files(), []byte(c.text))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
	spec := &swarm.ServiceSpec{}
	spec.TaskTemplate.ContainerSpec = &swarm.ContainerSpec{Hostname: "{{.Nothing}}"}
	if err := template.Check(spec); err == nil || !strings.HasPrefix(err.Error(), "expanding hostname failed: ") {
		t.Errorf("a bad host name: %v", err)
	}
	spec.TaskTemplate.ContainerSpec = &swarm.ContainerSpec{Env: []string{`A={{secret "password"}}`}}
	if err := template.Check(spec); err == nil || !strings.Contains(err.Error(), `function "secret" not defined`) {
		t.Errorf("a secret in the environment: %v", err)
	}
}

// doubling is a template that calls two of the next kind, sixty times.
func doubling() string {
	var b strings.Builder
	for i := range 60 {
		a, n := string(rune('a'+i/26))+string(rune('a'+i%26)), string(rune('a'+(i+1)/26))+string(rune('a'+(i+1)%26))
		b.WriteString(`{{define "` + a + `"}}{{template "` + n + `"}}{{template "` + n + `"}}{{end}}`)
	}
	b.WriteString(`{{define "ci"}}{{end}}{{template "aa"}}`)
	return b.String()
}

func TestErrorsShowNoSecret(t *testing.T) {
	for _, text := range []string{`{{range secret "password"}}{{end}}`, `{{index (secret "password") 99}}`, `{{template (secret "password")}}`, `{{len (secret "password") | printf "%q"  | call}}`} {
		_, err := template.Config(task(), node, files(), []byte(text))
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", text, err)
		}
		_, err = template.Secret(task(), node, files(), []byte("top "+text+" {{ secretstuff"))
		if err == nil || strings.Contains(err.Error(), "stuff") {
			t.Errorf("a secret that is no template: %v", err)
		}
	}
}

func FuzzPayload(f *testing.F) {
	for _, s := range []string{`{{.Service.Name}}`, `{{env "NAME"}}{{secret "password"}}`, `{{range 9}}{{.}}{{end}}`, doubling(), `{{with $x := print "a"}}{{$x}}{{end}}`, `{{block "a" .}}{{break}}{{end}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		a, errA := template.Config(task(), node, files(), text)
		b, errB := template.Secret(task(), node, files(), text)
		if (errA == nil) != (errB == nil) || !bytes.Equal(a, b) && errA == nil {
			t.Fatalf("%q: %q, %v and %q, %v", text, a, errA, b, errB)
		}
		if errB != nil && strings.Contains(errB.Error(), "hunter2") {
			t.Fatalf("%q: %v", text, errB)
		}
	})
}
