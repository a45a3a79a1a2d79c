package lab_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// staleHeader is on what a manager answers from its own replica while the swarm has no leader.
const staleHeader = "Shoal-Stale"

// load is clients that write through all managers at once, each as fast as it is answered, and the book of what was
// acknowledged. A write that failed without a clear refusal may have been made or not.
type load struct {
	apis []*api // of the managers

	mu      sync.Mutex
	acked   map[string]string // configs that were acknowledged: name to ID
	unknown map[string]bool   // configs of which it is not known
	counts  map[string]*count // services that are counted up, by name
	wrong   []string
	ops     int
	last    time.Time     // of the last acknowledgement
	gap     time.Duration // the longest time between two
}

// count is a service whose label is raised by one with each update.
type count struct {
	id                string
	own               bool // of one client, which waits for each answer
	floor             int  // the highest number that was acknowledged to the own client
	acked, unknown    int
	refused, conflict int
}

// requestWithin bounds one request. Nothing that the swarm promises takes longer.
const requestWithin = 5 * time.Second

// api is the Engine API of one manager.
type api struct {
	name string
	http http.Client
}

func newAPI(name, socket string) *api {
	return &api{name, http.Client{Timeout: requestWithin, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}}
}

// refusal is an answer that says that nothing was changed.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return fmt.Sprintf("%d: %s", r.status, r.text) }

// errStale: a manager without a leader answered from what it knows.
var errStale = errors.New("the answer may be old")

// do asks. An error that is no *refusal says nothing about what was done.
func (a *api) do(ctx context.Context, method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := a.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	switch {
	case resp.StatusCode >= 400 && resp.StatusCode < 500:
		return &refusal{resp.StatusCode, string(data)}
	case resp.StatusCode >= 500:
		text := string(data)
		if strings.Contains(text, "out of sequence") {
			return &refusal{resp.StatusCode, text}
		}
		return fmt.Errorf("%d: %s", resp.StatusCode, text)
	case resp.Header.Get(staleHeader) != "":
		return errStale
	case out == nil:
		return nil
	}
	return json.Unmarshal(data, out)
}

func newLoad(w *world, managers int) *load {
	l := &load{acked: map[string]string{}, unknown: map[string]bool{}, counts: map[string]*count{}, last: time.Now()}
	for n := 1; n <= managers; n++ {
		l.apis = append(l.apis, newAPI(w.Host(n).Name, w.Host(n).Socket))
	}
	return l
}

// start begins with count clients, spread over the managers, until ctx ends. What it returns waits for their end.
func (l *load) start(ctx context.Context, t *testing.T, clients int) (wait func()) {
	t.Helper()
	l.counter(t, "shared")
	for c := range clients {
		own := fmt.Sprintf("own%d", c)
		l.counter(t, own)
		l.counts[own].own = true
	}
	var wg sync.WaitGroup
	for c := range clients {
		own := fmt.Sprintf("own%d", c)
		wg.Go(func() {
			a, other := l.apis[c%len(l.apis)], l.apis[(c+1)%len(l.apis)]
			pause := time.NewTicker(20 * time.Millisecond)
			defer pause.Stop()
			for i := 0; ctx.Err() == nil; i++ {
				l.create(ctx, a, other, fmt.Sprintf("c%d-%d", c, i))
				l.raise(ctx, a, own)
				if i%4 == c%4 {
					l.raise(ctx, other, "shared")
				}
				select {
				case <-pause.C:
				case <-ctx.Done():
				}
			}
		})
	}
	return wg.Wait
}

type spec struct {
	Name         string
	Labels       map[string]string
	TaskTemplate map[string]any `json:",omitempty"`
	Mode         map[string]any `json:",omitempty"`
}

type object struct {
	ID      string
	Version struct{ Index uint64 }
	Spec    spec
}

func (l *load) counter(t *testing.T, name string) {
	t.Helper()
	s := spec{Name: name, Labels: map[string]string{"n": "0"}, Mode: map[string]any{"Replicated": map[string]any{"Replicas": 0}},
		TaskTemplate: map[string]any{"ContainerSpec": map[string]any{"Image": "hello:1"}}}
	var made object
	if err := l.apis[0].do(t.Context(), http.MethodPost, "/services/create", s, &made); err != nil {
		t.Fatal(err)
	}
	l.counts[name] = &count{id: made.ID}
}

// create makes a config with a name of its own and reads it through another manager.
func (l *load) create(ctx context.Context, a, other *api, name string) {
	var made object
	data := base64.StdEncoding.EncodeToString([]byte(name))
	err := a.do(ctx, http.MethodPost, "/configs/create", map[string]any{"Name": name, "Data": data}, &made)
	if err != nil {
		var no *refusal
		l.book(func() {
			if !errors.As(err, &no) {
				l.unknown[name] = true
			} else { // nothing is wrong with it, and the name is nobody else's
				l.wrong = append(l.wrong, fmt.Sprintf("creating %s through %s, once: %v", name, a.name, err))
			}
		}, false)
		return
	}
	l.book(func() { l.acked[name] = made.ID }, true)
	var read object
	err = other.do(ctx, http.MethodGet, "/configs/"+made.ID, nil, &read)
	var no *refusal
	if errors.As(err, &no) || err == nil && read.Spec.Name != name {
		l.book(func() {
			l.wrong = append(l.wrong, fmt.Sprintf("%s was acknowledged by %s, and %s reads %q, %v", name, a.name, other.name, read.Spec.Name, err))
		}, false)
	}
}

// raise adds one to a service's label, if nobody did meanwhile.
func (l *load) raise(ctx context.Context, a *api, name string) {
	c := l.counts[name]
	var s object
	if err := a.do(ctx, http.MethodGet, "/services/"+c.id, nil, &s); err != nil {
		return
	}
	var n int
	if _, err := fmt.Sscan(s.Spec.Labels["n"], &n); err != nil {
		return
	}
	if c.own && n < c.floor {
		l.book(func() {
			l.wrong = append(l.wrong, fmt.Sprintf("%s: %s counts %d at version %d through %s, after %d was acknowledged", time.Now().Format(time.TimeOnly+".000"), name, n, s.Version.Index, a.name, c.floor))
		}, false)
	}
	s.Spec.Labels["n"] = fmt.Sprint(n + 1)
	err := a.do(ctx, http.MethodPost, fmt.Sprintf("/services/%s/update?version=%d", c.id, s.Version.Index), s.Spec, nil)
	var no *refusal
	l.book(func() {
		switch {
		case err == nil:
			c.acked++
			c.floor = n + 1
		case !errors.As(err, &no):
			c.unknown++
		case strings.Contains(no.text, "out of sequence"):
			c.conflict++
		default:
			c.refused++
			l.wrong = append(l.wrong, fmt.Sprintf("raising %s through %s: %v", name, a.name, err))
		}
	}, err == nil)
}

func (l *load) book(entry func(), acked bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	entry()
	if acked {
		now := time.Now()
		l.ops++
		l.gap, l.last = max(l.gap, now.Sub(l.last)), now
	}
}

// acknowledged is how many writes were.
func (l *load) acknowledged() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ops
}

// sound says whether nothing was seen to be wrong so far.
func (l *load) sound() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.wrong) == 0
}

// audit compares the book with what one manager has. It is called when the clients have ended.
func (l *load) audit(configs, services []object) []string {
	wrong := slices.Clone(l.wrong)
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	found := map[string]int{}
	for _, c := range configs {
		name := c.Spec.Name
		found[name]++
		switch id := l.acked[name]; {
		case id != "" && id != c.ID:
			say("%s was acknowledged as %s and is %s", name, id, c.ID)
		case id == "" && !l.unknown[name]:
			say("nobody made %s", name)
		case found[name] > 1:
			say("%s is there %d times", name, found[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(l.acked)) {
		if found[name] == 0 {
			say("%s was acknowledged and is lost", name)
		}
	}
	for _, s := range services {
		c := l.counts[s.Spec.Name]
		if c == nil {
			continue
		}
		var n int
		if _, err := fmt.Sscan(s.Spec.Labels["n"], &n); err != nil || n < c.acked || n > c.acked+c.unknown {
			say("service %s counts %d after %d acknowledged updates and %d of which it is not known", s.Spec.Name, n, c.acked, c.unknown)
		}
	}
	return wrong
}

func (l *load) summary() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	unknown, conflict := len(l.unknown), 0
	for _, c := range l.counts {
		unknown += c.unknown
		conflict += c.conflict
	}
	return fmt.Sprintf("%d writes acknowledged, %d of unknown outcome, %d refused as out of sequence; longest time without an acknowledgement %s",
		l.ops, unknown, conflict, l.gap.Round(10*time.Millisecond))
}

func TestAuditFindsWhatIsLostAndWhatIsDoubled(t *testing.T) {
	config := func(id, name string) object { return object{ID: id, Spec: spec{Name: name}} }
	service := func(n string) object { return object{Spec: spec{Name: "s", Labels: map[string]string{"n": n}}} }
	l := &load{
		acked: map[string]string{"a": "1", "b": "2"}, unknown: map[string]bool{"u": true},
		counts: map[string]*count{"s": {acked: 5, unknown: 2}},
	}
	cases := map[string]struct {
		configs []object
		n       string
		want    string
	}{
		"all is there":           {[]object{config("1", "a"), config("2", "b")}, "5", ""},
		"the unknown one, too":   {[]object{config("1", "a"), config("2", "b"), config("3", "u")}, "7", ""},
		"one is lost":            {[]object{config("1", "a")}, "5", "b was acknowledged and is lost"},
		"one is doubled":         {[]object{config("1", "a"), config("2", "b"), config("4", "u"), config("5", "u")}, "5", "u is there 2 times"},
		"another has its name":   {[]object{config("9", "a"), config("2", "b")}, "5", "a was acknowledged as 1 and is 9"},
		"nobody made it":         {[]object{config("1", "a"), config("2", "b"), config("7", "x")}, "5", "nobody made x"},
		"an update is lost":      {[]object{config("1", "a"), config("2", "b")}, "4", "counts 4 after 5 acknowledged"},
		"an update came twice":   {[]object{config("1", "a"), config("2", "b")}, "8", "counts 8 after 5 acknowledged updates and 2"},
		"a counter that is gone": {[]object{config("1", "a"), config("2", "b")}, "", "counts 0 after 5"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got := strings.Join(l.audit(c.configs, []object{service(c.n)}), "\n")
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("it says %q", got)
			}
		})
	}
}
