package dryrun

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"shoal.dev/shoal/internal/httpapi"
)

// fields are the paths at which the JSON of two specifications differs, in the order of the paths. What is empty is as
// what is not there: no specification tells the two apart.
func fields(from, to any) ([]httpapi.DryRunField, error) {
	a, err := flat(from)
	if err != nil {
		return nil, err
	}
	b, err := flat(to)
	if err != nil {
		return nil, err
	}
	var out []httpapi.DryRunField
	paths := maps.Clone(a)
	maps.Copy(paths, b)
	for _, p := range slices.Sorted(maps.Keys(paths)) {
		if a[p] != b[p] {
			out = append(out, httpapi.DryRunField{Path: p, From: a[p], To: b[p]})
		}
	}
	return out, nil
}

// flat gives every leaf of v's JSON by its path.
func flat(v any) (map[string]string, error) {
	if v == nil {
		return map[string]string{}, nil
	}
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var tree any
	if err := dec.Decode(&tree); err != nil {
		return nil, err
	}
	out := map[string]string{}
	flatten(out, "", tree)
	return out, nil
}

func flatten(out map[string]string, path string, v any) {
	switch v := v.(type) {
	case nil:
	case map[string]any:
		for k, x := range v {
			flatten(out, join(path, k), x)
		}
	case []any:
		seen := map[string]int{}
		for i, x := range v {
			name, value := element(i, x)
			// Two of one name are told apart by their order.
			if n := seen[name]; n > 0 {
				seen[name]++
				name += "#" + strconv.Itoa(n+1)
			} else {
				seen[name] = 1
			}
			flatten(out, path+"["+name+"]", value)
		}
	case string:
		if v != "" {
			out[path] = v
		}
	default: // a number or a truth
		out[path] = fmt.Sprint(v)
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// names are the fields by which an element of a list in a specification is known, the first that it has.
var names = []string{"Target", "TargetPort", "SecretName", "ConfigName", "Name", "Subnet"}

// element names an element of a list, so that one that is inserted does not change all that follow. A variable of the
// environment is named by its name; of lists where the order counts, as arguments, an element is its place.
func element(i int, v any) (name string, value any) {
	switch v := v.(type) {
	case string:
		if k, val, ok := strings.Cut(v, "="); ok && k != "" && !strings.HasPrefix(k, "-") && !strings.ContainsAny(k, " /") {
			if val == "" {
				return k, `""`
			}
			return k, val
		}
	case map[string]any:
		if file, ok := v["File"].(map[string]any); ok && file["Name"] != nil {
			return fmt.Sprint(file["Name"]), v
		}
		for _, n := range names {
			if x, ok := v[n]; ok && x != "" {
				if proto, ok := v["Protocol"]; ok && n == "TargetPort" {
					return fmt.Sprintf("%v/%v", x, proto), v
				}
				return fmt.Sprint(x), v
			}
		}
	}
	return strconv.Itoa(i), v
}
