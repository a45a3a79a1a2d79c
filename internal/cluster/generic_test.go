package cluster_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
)

func showGeneric(rs []swarm.GenericResource) string {
	var out []string
	for _, r := range rs {
		if d := r.DiscreteResourceSpec; d != nil {
			out = append(out, fmt.Sprintf("%s:%d", d.Kind, d.Value))
		}
		if n := r.NamedResourceSpec; n != nil {
			out = append(out, n.Kind+"="+n.Value)
		}
	}
	return strings.Join(out, " ")
}

func TestParseGenericResources(t *testing.T) {
	for in, want := range map[string]string{
		"":                    "",
		"ssd=3":               "ssd:3",
		"ssd=0":               "ssd:0",
		"gpu=UUID2 gpu=UUID1": "gpu=UUID2 gpu=UUID1",
		"ssd=3 gpu=UUID1":     "gpu=UUID1 ssd:3",
		"ssd":                 "incorrect term ssd",
		"=3":                  "incorrect term =3",
		"ssd=":                "incorrect term ssd=",
		"ssd=a=b":             "incorrect term ssd=a=b",
		"ssd=-1":              "cannot ask for negative resource ssd",
		"gpu=UUID1 gpu=2":     "malformed expression 'gpu=[UUID1 2]'",
		"gpu=1 gpu=2":         "malformed expression",
	} {
		got, err := cluster.ParseGenericResources(strings.Fields(in))
		switch {
		case err != nil && (want == "" || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "could not parse GenericResource: ")):
			t.Errorf("%q: %v, want %q", in, err, want)
		case err == nil && showGeneric(got) != want:
			t.Errorf("%q: %q, want %q", in, showGeneric(got), want)
		}
	}
}
