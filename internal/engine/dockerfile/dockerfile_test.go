package dockerfile

import (
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

func TestApply(t *testing.T) {
	port := network.MustParsePort
	for _, test := range []struct {
		name    string
		from    container.Config
		changes []string
		want    container.Config
	}{
		{"none", container.Config{User: "a"}, nil, container.Config{User: "a"}},
		{"a list", container.Config{}, []string{`CMD ["a", "b c"]`}, container.Config{Cmd: []string{"a", "b c"}}},
		{"a shell", container.Config{}, []string{"cmd a b"}, container.Config{Cmd: []string{"/bin/sh", "-c", "a b"}}},
		{"the image's shell", container.Config{Shell: []string{"ash"}}, []string{"CMD a"}, container.Config{Shell: []string{"ash"}, Cmd: []string{"ash", "a"}}},
		{"an entry point ends the command", container.Config{Cmd: []string{"x"}}, []string{`ENTRYPOINT ["/a"]`}, container.Config{Entrypoint: []string{"/a"}}},
		{"variables", container.Config{Env: []string{"A=1", "B=2"}}, []string{"ENV A=$B C='x y'", "ENV D ${A}z"},
			container.Config{Env: []string{"B=2", "A=2", "C=x y", "D=2z"}}},
		{"labels", container.Config{Labels: map[string]string{"a": "1"}}, []string{"LABEL a=2 b=3"}, container.Config{Labels: map[string]string{"a": "2", "b": "3"}}},
		{"ports", container.Config{}, []string{"EXPOSE 80 53/udp 90-91"},
			container.Config{ExposedPorts: network.PortSet{port("80/tcp"): {}, port("53/udp"): {}, port("90/tcp"): {}, port("91/tcp"): {}}}},
		{"folders", container.Config{WorkingDir: "/a"}, []string{"WORKDIR b", `VOLUME ["/v", "/w"]`},
			container.Config{WorkingDir: "/a/b", Volumes: map[string]struct{}{"/v": {}, "/w": {}}}},
		{"the rest", container.Config{}, []string{"USER u:g", "STOPSIGNAL INT", "ONBUILD RUN x", "HEALTHCHECK --interval=3s CMD true"},
			container.Config{User: "u:g", StopSignal: "INT", OnBuild: []string{"RUN x"},
				Healthcheck: &container.HealthConfig{Test: []string{"CMD-SHELL", "true"}, Interval: 3 * time.Second}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Apply(&test.from, test.changes)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(&test.want, got, cmpopts.EquateComparable(network.Port{}), cmpopts.EquateEmpty()); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

func TestApplyKeepsTheOriginal(t *testing.T) {
	c := &container.Config{Env: []string{"A=1"}, Labels: map[string]string{"a": "1"}}
	if _, err := Apply(c, []string{"ENV A=2", "LABEL a=2"}); err != nil || c.Env[0] != "A=1" || c.Labels["a"] != "1" {
		t.Errorf("the original is %+v, %v", c, err)
	}
}

func TestRefused(t *testing.T) {
	for change, words := range map[string]string{
		"RUN rm -rf /":       "RUN is not a valid change command",
		"FROM x":             "FROM is not a valid change command",
		"EXPOSE x":           "invalid",
		"STOPSIGNAL CHAIR":   "CHAIR",
		"ENV a":              "ENV must have two arguments",
		`VOLUME [""]`:        "can not be an empty",
		"nonsense":           "nonsense is not a valid change command",
		"ONBUILD FROM x":     "FROM isn't allowed as an ONBUILD trigger",
		"LABEL a=${x:?gone}": "gone",
	} {
		if _, err := Apply(&container.Config{}, []string{change}); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), words) {
			t.Errorf("%q: %v; want %q", change, err, words)
		}
	}
}

func FuzzApply(f *testing.F) {
	f.Add("CMD [\"a\"]\nENV a=$b c\\\nd")
	f.Add("EXPOSE 1-65535\nHEALTHCHECK NONE\nONBUILD ADD a b")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Apply(&container.Config{}, []string{text})
		if (c == nil) == (err == nil) || err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %+v, %v", text, c, err)
		}
	})
}
