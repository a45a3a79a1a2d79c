package httpapi

import (
	"slices"
	"strings"

	"github.com/distribution/reference"

	"shoal.dev/shoal/internal/engine"
)

// objectFilters are the filters of events that name an object. As in Docker they look at no type: a container and a
// volume of the same name both pass the filter container=NAME.
var objectFilters = []string{"config", "container", "daemon", "network", "node", "plugin", "secret", "service", "volume"}

// checkEventFilters refuses a filter that there is none of.
func checkEventFilters(filters map[string][]string) error {
	for k := range filters {
		if !slices.Contains(objectFilters, k) && !slices.Contains([]string{"event", "image", "label", "scope", "type"}, k) {
			return invalid("invalid filter '%s'", k)
		}
	}
	return nil
}

// eventMatches says whether an event passes: the filters all, of the values of one filter any, of labels all.
func eventMatches(e engine.Event, filters map[string][]string) bool {
	for k, values := range filters {
		ok := false
		switch k {
		case "type":
			ok = slices.Contains(values, e.Type)
		case "scope":
			ok = slices.Contains(values, scopeOf(e))
		case "event":
			ok = actionMatches(e.Action, values)
		case "image":
			ok = imageMatches(e, values)
		case "label":
			ok = !slices.ContainsFunc(values, func(v string) bool {
				name, want, exact := strings.Cut(v, "=")
				have, found := e.Attributes[name]
				return !found || exact && have != want
			})
		default: // of objectFilters: by a prefix of the ID or the name
			ok = slices.ContainsFunc(values, func(v string) bool {
				return strings.HasPrefix(e.ID, v) || strings.HasPrefix(e.Attributes["name"], v)
			})
		}
		if !ok {
			return false
		}
	}
	return true
}

// actionMatches compares the whole action, such as "exec_start: sh -c x", unless the kinds of action that have a text
// of their own are asked for: then prefixes count.
func actionMatches(action string, values []string) bool {
	if slices.Contains(values, action) {
		return true
	}
	if !slices.ContainsFunc(values, func(v string) bool { return v == "health_status" || v == "exec_create" || v == "exec_start" }) {
		return false
	}
	return slices.ContainsFunc(values, func(v string) bool { return strings.HasPrefix(action, v) })
}

// imageMatches compares an image's ID and name, or those of a container's image, with and without the tag.
func imageMatches(e engine.Event, values []string) bool {
	name := e.Attributes["image"]
	if e.Type == "image" {
		name = e.Attributes["name"]
	}
	return slices.ContainsFunc([]string{e.ID, name, withoutTag(e.ID), withoutTag(name)}, func(s string) bool {
		return s != "" && slices.Contains(values, s)
	})
}

// withoutTag is an image's familiar name without tag and digest.
func withoutTag(name string) string {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return reference.FamiliarName(ref)
}

func scopeOf(e engine.Event) string {
	if e.Scope == "" {
		return "local"
	}
	return e.Scope
}
