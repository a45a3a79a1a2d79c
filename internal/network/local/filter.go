package local

import (
	"slices"
	"strings"

	"github.com/moby/moby/api/types/network"
)

// Filter chooses networks as GET /networks does.
type Filter map[string][]string

// NewFilter is a filter of a list. What it does not know is InvalidArgument.
func NewFilter(want map[string][]string) (Filter, error) {
	known := []string{"dangling", "driver", "id", "label", "name", "scope", "type"}
	for k, values := range want {
		if !slices.Contains(known, k) {
			return nil, invalid("invalid filter '%s'", k)
		}
		for _, v := range values {
			switch {
			case k == "dangling" && len(values) > 1:
				return nil, invalid(`got more than one value for filter key "dangling"`)
			case k == "dangling" && !slices.Contains([]string{"0", "1", "true", "false"}, v):
				return nil, invalid(`invalid value for filter 'dangling': must be "true" (or "1"), or "false" (or "0")`)
			case k == "type" && v != "builtin" && v != "custom":
				return nil, invalid("invalid value for filter 'type': must be 'builtin' or 'custom'")
			}
		}
	}
	return Filter(want), nil
}

// Match says whether a network passes: every key, and of a key one value, of labels all.
func (f Filter) Match(n *network.Inspect) bool {
	predefined := Predefined(n.Name) || n.Ingress
	for k, values := range f {
		if len(values) == 0 {
			continue
		}
		ok := func(v string) bool {
			switch k {
			case "dangling":
				unused := !predefined && len(n.Containers) == 0 && len(n.Services) == 0
				return unused == (v == "true" || v == "1")
			case "driver":
				return n.Driver == v
			case "id":
				return strings.HasPrefix(n.ID, v)
			case "name":
				return strings.Contains(n.Name, v)
			case "scope":
				return n.Scope == v
			case "type":
				return predefined == (v == "builtin")
			}
			return hasLabel(n.Labels, v)
		}
		var pass bool
		if k == "label" {
			pass = !slices.ContainsFunc(values, func(v string) bool { return !ok(v) })
		} else {
			pass = slices.ContainsFunc(values, ok)
		}
		if !pass {
			return false
		}
	}
	return true
}

func hasLabel(labels map[string]string, want string) bool {
	key, value, exact := strings.Cut(want, "=")
	got, has := labels[key]
	return has && (!exact || got == value)
}
