package compose

import (
	"testing"

	"github.com/docker/cli/cli/compose/loader"
	"github.com/google/go-cmp/cmp"
)

func TestAdapt(t *testing.T) {
	env := map[string]string{"RESTART": "on-failure:3", "COMPOSE_PROFILES": "extra,more"}
	for name, c := range map[string]struct {
		files   []string
		want    []string
		changed bool
	}{
		"nothing to do": {[]string{"services: {a: {image: x, deploy: {replicas: 2}}}"}, []string{"services: {a: {image: x, deploy: {replicas: 2}}}"}, false},
		"short": {[]string{"services: {a: {depends_on: [b, c]}, b: {}, c: {}}"},
			[]string{"services: {a: {deploy: {labels: {shoal.depends-on: 'b:service_started,c:service_started'}}}, b: {}, c: {}}"}, true},
		"long": {[]string{"services: {a: {depends_on: {b: {condition: service_healthy}, c: {condition: service_started, required: false}, d: {condition: service_completed_successfully, restart: true}}}, b: {}, d: {}}"},
			[]string{"services: {a: {deploy: {labels: {shoal.depends-on: 'b:service_healthy,d:service_completed_successfully'}}}, b: {}, d: {}}"}, true},
		"in two files": {[]string{"services: {a: {depends_on: [b]}, b: {}, c: {}}", "services: {a: {depends_on: {b: {condition: service_healthy}, c: {}}}}"},
			[]string{"services: {a: {}, b: {}, c: {}}", "services: {a: {deploy: {labels: {shoal.depends-on: 'b:service_healthy,c:service_started'}}}}"}, true},
		"access": {[]string{"services: {a: {privileged: true, devices: ['/dev/a:/dev/b:r', /dev/c], deploy: {labels: [x=y]}}, b: {privileged: 'false'}}"},
			[]string{"services: {a: {deploy: {labels: [x=y, 'shoal.devices=/dev/a:/dev/b:r,/dev/c', shoal.privileged=true]}}, b: {}}"}, true},
		"restart": {[]string{"services: {a: {restart: '${RESTART}'}, b: {restart: 'no'}, c: {restart: unless-stopped}, d: {restart: always, deploy: {restart_policy: {condition: none}}}, e: {restart: always, deploy: {mode: replicated-job}}}"},
			[]string{"services: {a: {deploy: {restart_policy: {condition: on-failure, max_attempts: 3}}}, b: {deploy: {restart_policy: {condition: none}}}, c: {deploy: {restart_policy: {condition: any}}}, d: {deploy: {restart_policy: {condition: none}}}, e: {deploy: {mode: replicated-job}}}"}, true},
		"profiles": {[]string{"services: {a: {}, b: {profiles: [debug]}, c: {profiles: [debug, more]}, d: {profiles: [given]}}"},
			[]string{"services: {a: {}, c: {}, d: {}}"}, true},
	} {
		var files, want []map[string]any
		for i := range c.files {
			for to, text := range map[*[]map[string]any]string{&files: c.files[i], &want: c.want[i]} {
				f, err := loader.ParseYAML([]byte(text))
				if err != nil {
					t.Fatal(err)
				}
				*to = append(*to, f)
			}
		}
		changed, err := Adapt(files, []string{"given"}, env)
		if d := cmp.Diff(want, files); err != nil || d != "" || changed != c.changed {
			t.Errorf("%s: changed %t, %v\n%s", name, changed, err, d)
		}
	}
}
