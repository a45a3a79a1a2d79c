package httpapi

import (
	"net/http"
	"strings"
	"time"
)

// route is one verb of the API. Its pattern is a path in which one element may be variable: {x} is one element that is
// not empty, {x*} is any text, slashes and none included, as in an image's name.
type route struct {
	method, pattern string
	within          time.Duration // 0: a stream, that ends with the client
	handle          func(*call) error
}

// key names a route in the tables of package compat.
func (r *route) key() string { return r.method + " " + r.pattern }

func get(pattern string, h func(*call) error) route {
	return route{http.MethodGet, pattern, RequestTime, h}
}

func post(pattern string, h func(*call) error) route {
	return route{http.MethodPost, pattern, RequestTime, h}
}

func del(pattern string, h func(*call) error) route {
	return route{http.MethodDelete, pattern, RequestTime, h}
}

// lasting gives a route another bound; 0 makes it a stream.
func (r route) lasting(d time.Duration) route {
	r.within = d
	return r
}

// router finds routes: those without a variable first, then the others in the order of the table.
type router struct {
	fixed    map[string]*route
	variable map[string][]variable // by method and first element
}

type variable struct {
	prefix, suffix string
	many           bool
	route          *route
}

func newRouter(routes []route) *router {
	rt := &router{fixed: map[string]*route{}, variable: map[string][]variable{}}
	for i := range routes {
		r := &routes[i]
		prefix, rest, ok := strings.Cut(r.pattern, "{")
		if !ok {
			rt.fixed[r.key()] = r
			continue
		}
		name, suffix, _ := strings.Cut(rest, "}")
		k := r.method + " " + first(r.pattern)
		rt.variable[k] = append(rt.variable[k], variable{prefix, suffix, strings.HasSuffix(name, "*"), r})
	}
	return rt
}

// find returns the route of a path and the text of its variable, or nil.
func (rt *router) find(method, path string) (*route, string) {
	if r := rt.fixed[method+" "+path]; r != nil {
		return r, ""
	}
	for _, v := range rt.variable[method+" "+first(path)] {
		if len(path) < len(v.prefix)+len(v.suffix) || !strings.HasPrefix(path, v.prefix) || !strings.HasSuffix(path, v.suffix) {
			continue
		}
		value := path[len(v.prefix) : len(path)-len(v.suffix)]
		if v.many || value != "" && !strings.Contains(value, "/") {
			return v.route, value
		}
	}
	return nil, ""
}

func first(path string) string {
	elem, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return elem
}
