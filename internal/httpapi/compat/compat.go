// Package compat makes requests and responses of today's Engine API into those of an older version and back.
//
// It decides nothing but what stands in its two tables: which fields a version did not know, and which ones it had
// that are gone. It works on JSON text, because the types of package github.com/moby/moby/api are those of the newest
// version only. A caller that speaks the newest version costs nothing.
package compat

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Version is a version of the Engine API.
type Version struct{ Major, Minor int }

// The versions that are served. The newest is that of the types in go.mod; the oldest is the first one with Swarm mode
// as it still is.
var (
	Newest = Version{1, 56}
	Oldest = Version{1, 24}
)

// Parse reads "1.56". Parts that are missing are 0; a third one and what is no number count for nothing, as in Docker.
func Parse(s string) Version {
	parts := strings.SplitN(s, ".", 3)
	v := Version{Major: number(parts[0])}
	if len(parts) > 1 {
		v.Minor = number(parts[1])
	}
	return v
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// Less says whether v is older than w.
func (v Version) Less(w Version) bool {
	return v.Major < w.Major || v.Major == w.Major && v.Minor < w.Minor
}

func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// A Rule is one difference. It holds for versions below Below.
type Rule struct {
	Below Version
	Route string // method and pattern, as in the route table of package httpapi
	Do    Op
	// Path names fields, separated by dots; "*" is every element of an array or every value of an object.
	Path string
	From string // of Copy: the field that is copied, in the same object as the last element of Path
	With any    // of Default and Set: the value
}

// Op is what a rule does to the field that its path names.
type Op int

// The operations. None of them makes the object that should hold the field.
const (
	Drop    Op = iota // the field did not exist: remove it
	Default           // the field was always there: add it if it is missing or null
	Set               // the field always had this value
	Copy              // the field had this other field's value
)

// Response makes the body of a response of the newest version into one of v.
func Response(route string, v Version, body []byte) ([]byte, error) {
	return apply(responseRules, route, v, body)
}

// Request takes out of a request's body what v did not know, so that it is ignored as the old server ignored it.
func Request(route string, v Version, body []byte) ([]byte, error) {
	return apply(requestRules, route, v, body)
}

// Touches says whether a request to the route has rules at v, so that a caller need not keep the body otherwise.
func Touches(route string, v Version) bool {
	for i := range requestRules {
		if r := &requestRules[i]; r.Route == route && v.Less(r.Below) {
			return true
		}
	}
	return false
}

func apply(rules []Rule, route string, v Version, body []byte) ([]byte, error) {
	if !v.Less(Newest) {
		return body, nil
	}
	var doc any
	for i := range rules {
		r := &rules[i]
		if r.Route != route || !v.Less(r.Below) {
			continue
		}
		if doc == nil {
			d := json.NewDecoder(bytes.NewReader(body))
			d.UseNumber() // an int64 does not fit a float64
			if err := d.Decode(&doc); err != nil {
				return nil, fmt.Errorf("reading the body of %s for API version %s: %w", route, v, err)
			}
		}
		walk(doc, strings.Split(r.Path, "."), r)
	}
	if doc == nil {
		return body, nil
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(doc); err != nil {
		return nil, fmt.Errorf("writing the body of %s for API version %s: %w", route, v, err)
	}
	return out.Bytes(), nil
}

func walk(doc any, path []string, r *Rule) {
	if path[0] == "*" {
		switch d := doc.(type) {
		case []any:
			for _, e := range d {
				walk(e, path[1:], r)
			}
		case map[string]any:
			for _, e := range d {
				walk(e, path[1:], r)
			}
		}
		return
	}
	m, ok := doc.(map[string]any)
	if !ok {
		return
	}
	if len(path) > 1 {
		walk(m[path[0]], path[1:], r)
		return
	}
	switch r.Do {
	case Drop:
		delete(m, path[0])
	case Set:
		m[path[0]] = r.With
	case Default:
		if m[path[0]] == nil {
			m[path[0]] = r.With
		}
	case Copy:
		if from := find(m, strings.Split(r.From, ".")); from != nil && m[path[0]] == nil {
			m[path[0]] = from
		}
	}
}

func find(doc any, path []string) any {
	for _, p := range path {
		m, ok := doc.(map[string]any)
		if !ok {
			return nil
		}
		doc = m[p]
	}
	return doc
}
