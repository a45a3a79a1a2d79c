package compose

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestValidate(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"nothing":            {"services:\n  a: {image: x}\n", nil},
		"no YAML":            {"services:\n  a: {image: x\n  b: 1\n", []string{":1: error: line 1: did not find"}},
		"a tab":              {"services:\n\ta: 1\n", []string{":2: error: line 2: found character that cannot start any token"}},
		"a list":             {"- a\n", []string{": error: top-level object must be a mapping"}},
		"an unknown key":     {"services:\n  a:\n    image: x\n    colour: red\n", []string{":4: error: services.a: additional property 'colour' is not allowed"}},
		"a deep unknown key": {"services:\n  a:\n    image: x\n    deploy:\n      mode: global\n      colour: red\n", []string{":6: error: services.a.deploy: additional property 'colour' is not allowed"}},
		"a wrong type":       {"services:\n  a:\n    image: x\n    deploy:\n      replicas: many\n", []string{":5: error: services.a.deploy.replicas: must be an integer"}},
		"a wrong port":       {"services:\n  a:\n    image: x\n    ports:\n      - 80\n      - nothing\n", []string{":6: error: "}},
		"no image":           {"services:\n  a:\n    command: x\n", []string{":2: error: invalid image reference for service a: no image specified"}},
		"a bad image":        {"services:\n  a:\n    image: 'X:'\n", []string{":3: error: invalid image reference for service a: "}},
		"ignored keys": {"services:\n  a:\n    image: x\n    build: .\n    links: [b]\n    container_name: n\n", []string{
			":4: error: services.a.build: a swarm builds no images: build it, push it", ":5: warning: services.a.links is ignored", ":6: warning: services.a.container_name is ignored"}},
		"refused keys":             {"services:\n  a:\n    image: x\n    mem_limit: 1g\n", []string{":4: error: services.a.mem_limit is refused: Set resource limits using deploy.resources"}},
		"what services understand": {"services:\n  a:\n    image: x\n    depends_on: {b: {condition: service_healthy}}\n    devices: [/dev/a]\n    privileged: true\n    restart: always\n    init: true\n  b: {image: x, profiles: [on]}\n", nil},
		"build without an image":   {"services:\n  a:\n    build: {context: .}\n", []string{":3: error: services.a.build: "}},
		"order of nothing":         {"services:\n  a:\n    image: x\n    depends_on:\n      - b\n", []string{`:5: error: service "a" depends on undefined service "b"`}},
		"order of what is off":     {"services:\n  a: {image: x, depends_on: [b]}\n  b: {image: x, profiles: [off]}\n", []string{`:2: error: service "a" depends on service "b", whose profiles are not active: use --profile off`}},
		"a cycle":                  {"services:\n  a: {image: x, depends_on: [b]}\n  b: {image: x, depends_on: [c]}\n  c: {image: x, depends_on: [a]}\n", []string{":2: error: dependency cycle: a -> b -> c -> a"}},
		"a bad condition":          {"services:\n  a:\n    image: x\n    depends_on:\n      b:\n        condition: ready\n  b: {image: x}\n", []string{`:6: error: services.a.depends_on.b.condition "ready" is none of service_started`}},
		"a bad restart":            {"services:\n  a:\n    image: x\n    restart: on-failure:many\n  b:\n    image: x\n    restart: often\n", []string{`:4: error: services.a.restart: invalid restart policy "on-failure:many"`, `:7: error: services.b.restart: invalid restart policy "often"`}},
		"a merged key":             {"x-a: &a\n  image: x\n  links: [b]\nservices:\n  a:\n    <<: *a\n", []string{":3: warning: services.a.links is ignored"}},
		"unknown reference":        {"services:\n  a:\n    image: x\n    networks: [n]\n    secrets: [s]\n    configs: [c]\n    volumes: ['data:/v']\n", []string{`:4: error: undefined network "n"`, `:5: error: undefined secret "s"`, `:6: error: undefined config "c"`, `:7: error: undefined volume "data"`}},
		"a variable":               {"services:\n  a:\n    image: ${IMAGE:?is wanted}\n", []string{": error: "}},
	} {
		file := filepath.Join(t.TempDir(), "f.yaml")
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		found, err := validate([]string{file}, nil, []string{"on"}, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got []string
		for _, f := range found {
			got = append(got, strings.TrimPrefix(f.String(), file))
		}
		ok := len(got) == len(c.want)
		for i := range got {
			ok = ok && strings.HasPrefix(got[i], c.want[i])
		}
		if !ok {
			t.Errorf("%s:\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
		}
	}
}

// An error is of the file that has what it is about.
func TestValidateMerged(t *testing.T) {
	dir := t.TempDir()
	var files []string
	for name, text := range map[string]string{"1.yaml": "services:\n  a: {image: x}\n", "2.yaml": "services:\n  a:\n    networks:\n      - n\n"} {
		files = append(files, filepath.Join(dir, name))
		if err := os.WriteFile(files[len(files)-1], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	found, err := validate([]string{filepath.Join(dir, "1.yaml"), filepath.Join(dir, "2.yaml")}, nil, []string{"on"}, nil)
	if err != nil || len(found) != 1 || filepath.Base(found[0].file) != "2.yaml" || found[0].line != 3 {
		t.Errorf("%v, %v", found, err)
	}
	if _, err := validate([]string{filepath.Join(dir, "3.yaml")}, nil, []string{"on"}, nil); err == nil {
		t.Error("a file that is not there has no findings")
	}
}

func FuzzValidate(f *testing.F) {
	f.Add("services:\n  a: {image: x, depends_on: [b]}\n  b: {<<: &x {image: y}, depends_on: {a: {condition: c}}}\n")
	f.Add("a: &a [*a]\nservices: *a\n")
	f.Fuzz(func(t *testing.T, text string) {
		file := filepath.Join(t.TempDir(), "f.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := validate([]string{file}, nil, []string{"on"}, nil); err != nil {
			t.Error(err)
		}
	})
}
