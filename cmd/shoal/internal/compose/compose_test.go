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
			":4: warning: services.a.build is ignored: build and push", ":5: warning: services.a.links is ignored", ":6: warning: services.a.container_name is ignored"}},
		"refused keys": {"services:\n  a:\n    image: x\n    mem_limit: 1g\n", []string{":4: error: services.a.mem_limit is refused: Set resource limits using deploy.resources"}},
		"order": {"services:\n  a:\n    image: x\n    depends_on:\n      - b\n  b:\n    image: x\n", []string{
			":4: warning: services.a.depends_on is ignored"}},
		"order of nothing": {"services:\n  a:\n    image: x\n    depends_on:\n      - b\n", []string{
			":4: warning: ", `:5: error: service "a" depends on undefined service "b"`}},
		"a cycle": {"services:\n  a: {image: x, depends_on: [b]}\n  b: {image: x, depends_on: [c]}\n  c: {image: x, depends_on: [a]}\n", []string{
			":2: warning: ", ":2: error: dependency cycle: a -> b -> c -> a", ":3: warning: ", ":3: error: dependency cycle: b -> c -> a -> b", ":4: warning: ", ":4: error: dependency cycle: c -> a -> b -> c"}},
		"a merged key":      {"x-a: &a\n  image: x\n  links: [b]\nservices:\n  a:\n    <<: *a\n", []string{":3: warning: services.a.links is ignored"}},
		"unknown reference": {"services:\n  a:\n    image: x\n    networks: [n]\n    secrets: [s]\n    configs: [c]\n    volumes: ['data:/v']\n", []string{`:4: error: undefined network "n"`, `:5: error: undefined secret "s"`, `:6: error: undefined config "c"`, `:7: error: undefined volume "data"`}},
		"a variable":        {"services:\n  a:\n    image: ${IMAGE:?is wanted}\n", []string{": error: "}},
	} {
		file := filepath.Join(t.TempDir(), "f.yaml")
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		found, err := validate([]string{file}, nil, nil)
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
	found, err := validate([]string{filepath.Join(dir, "1.yaml"), filepath.Join(dir, "2.yaml")}, nil, nil)
	if err != nil || len(found) != 1 || filepath.Base(found[0].file) != "2.yaml" || found[0].line != 3 {
		t.Errorf("%v, %v", found, err)
	}
	if _, err := validate([]string{filepath.Join(dir, "3.yaml")}, nil, nil); err == nil {
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
		if _, err := validate([]string{file}, nil, nil); err != nil {
			t.Error(err)
		}
	})
}
