package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/registry"

	"shoal.dev/shoal/internal/httpapi/compat"
)

// call is one request on its way through a handler.
type call struct {
	*http.Request
	w       *response
	route   *route
	value   string // of the pattern's variable
	version compat.Version
	query   url.Values
}

// since says whether the client speaks at least API version 1.minor.
func (c *call) since(minor int) bool {
	return !c.version.Less(compat.Version{Major: 1, Minor: minor})
}

// flag reads a query parameter as Docker does: nothing, 0, no, false and none are false, whatever else is true.
func (c *call) flag(name string) bool { return truthy(c.query.Get(name)) }

func truthy(s string) bool {
	switch strings.ToLower(strings.TrimSpace(s)) {
	case "", "0", "no", "false", "none":
		return false
	}
	return true
}

// strictFlag reads a query parameter that Docker's daemon is strict about.
func (c *call) strictFlag(name string) (bool, error) {
	v := c.query.Get(name)
	if v == "" {
		return false, nil
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		return false, invalid("invalid value for %s: %s", name, v)
	}
	return b, nil
}

// objectVersion reads the query parameter "version" of an update.
func (c *call) objectVersion(kind string) (uint64, error) {
	v := c.query.Get("version")
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		return 0, invalid("invalid %s version '%s': %v", kind, v, err)
	}
	return n, nil
}

func (c *call) filters() (map[string][]string, error) { return parseFilters(c.query.Get("filters")) }

// parseFilters reads the query parameter "filters": {"label":{"a=b":true}}, or {"label":["a=b"]} of old clients.
// Values are sorted; one that is false does not count. It returns nil for none.
func parseFilters(s string) (map[string][]string, error) {
	if s == "" {
		return nil, nil
	}
	out := map[string][]string{}
	var sets map[string]map[string]bool
	if err := json.Unmarshal([]byte(s), &sets); err == nil {
		for k, set := range sets {
			for v, on := range set {
				if on {
					out[k] = append(out[k], v)
				}
			}
			slices.Sort(out[k])
		}
	} else {
		var lists map[string][]string
		if err := json.Unmarshal([]byte(s), &lists); err != nil {
			return nil, invalid("invalid filter")
		}
		for k, list := range lists {
			if len(list) > 0 {
				out[k] = slices.Compact(slices.Sorted(slices.Values(list)))
			}
		}
	}
	if len(out) == 0 {
		return nil, nil
	}
	return out, nil
}

// parseTime reads a time of a query: Unix seconds with a fraction of up to nine digits, as Docker's clients send it, or
// what their users write, a time of RFC 3339 or a duration before now. "" and "0" are zero.
func parseTime(name, s string) (time.Time, error) {
	if s == "" || s == "0" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return time.Now().Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	whole, frac, _ := strings.Cut(s, ".")
	sec, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || len(frac) > 9 || strings.Trim(frac, "0123456789") != "" {
		return time.Time{}, invalid("invalid value for %q: %q is not a time in Unix seconds, of RFC 3339 or a duration", name, s)
	}
	nano, err := strconv.ParseInt("0"+frac+strings.Repeat("0", 9-len(frac)), 10, 64)
	if err != nil { // ten digits fit
		return time.Time{}, err
	}
	return time.Unix(sec, nano), nil
}

// auth reads the credentials for a registry. As in Docker, what cannot be read counts as none, so that a client with
// a broken credential store can still pull what is public.
func (c *call) auth() *registry.AuthConfig {
	a, err := authconfig.Decode(c.Header.Get(registry.AuthHeader))
	if err != nil || *a == (registry.AuthConfig{}) {
		return nil
	}
	return a
}

// json reads the body into v. A missing body leaves v as it is; fields that v does not have are passed over.
func (c *call) json(v any) error {
	if err := c.wantJSON(); err != nil {
		return err
	}
	if c.Body == nil || c.ContentLength == 0 {
		return nil
	}
	return c.decode(v)
}

// wantJSON checks the content type. A request without a body needs none.
func (c *call) wantJSON() error {
	ct := c.Header.Get("Content-Type")
	if ct == "" && (c.Body == nil || c.ContentLength == 0) {
		return nil
	}
	t, _, err := mime.ParseMediaType(ct)
	if err != nil {
		return invalid("malformed Content-Type header (%s): %v", ct, err)
	}
	if t != "application/json" {
		return invalid("unsupported Content-Type header (%s): must be 'application/json'", ct)
	}
	return nil
}

func (c *call) decode(v any) error {
	if c.ContentLength > MaxJSON {
		// A client that is cut off while it still writes sees a broken pipe instead of the answer: hear it out, within
		// bounds. How it ends does not matter.
		_, _ = io.CopyN(io.Discard, c.Body, maxHeardOut)
		return errTooLarge
	}
	var body io.Reader = http.MaxBytesReader(c.w, c.Body, MaxJSON)
	if compat.Touches(c.route.key(), c.version) {
		var raw json.RawMessage
		if err := decodeOne(body, &raw); err != nil {
			return err
		}
		b, err := compat.Request(c.route.key(), c.version, raw)
		if err != nil {
			return invalid("invalid JSON: %v", err)
		}
		body = bytes.NewReader(b)
	}
	return decodeOne(body, v)
}

func decodeOne(r io.Reader, v any) error {
	d := json.NewDecoder(r)
	if err := d.Decode(v); err != nil {
		if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
			return errTooLarge
		}
		if errors.Is(err, io.EOF) {
			return invalid("invalid JSON: got EOF while reading request body")
		}
		return invalid("invalid JSON: %v", err)
	}
	if d.More() {
		return invalid("unexpected content after JSON")
	}
	return nil
}

// reply writes v as JSON, as the client's version of the API has it.
func (c *call) reply(status int, v any) error {
	body, err := c.encode(v)
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "application/json")
	c.w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	c.w.WriteHeader(status)
	_, _ = c.w.Write(body) // a client that went away is no error
	return nil
}

func (c *call) encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return compat.Response(c.route.key(), c.version, b.Bytes())
}

// list is s, or an empty list if s is nil: the API has no null where there should be a list.
func list[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
