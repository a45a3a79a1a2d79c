package node

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

type fakeLink struct {
	addr   string
	closed chan string
}

func (l fakeLink) Close() error {
	l.closed <- l.addr
	return nil
}

// The first manager that answers is taken, whatever those before it do; nothing is left open or running.
func TestTheFirstManagerThatAnswersIsTaken(t *testing.T) {
	const never = time.Hour
	for _, c := range []struct {
		name  string
		takes map[string]time.Duration // until it answers; negative: fails after so long
		addrs []string
		got   string
		after time.Duration
		err   string
		late  string // a link that comes too late
	}{
		{"the first", map[string]time.Duration{"a": time.Millisecond, "b": 0}, []string{"a", "b"}, "a", time.Millisecond, "", ""},
		{"two without power", map[string]time.Duration{"a": never, "b": never, "c": time.Millisecond}, []string{"a", "b", "c"}, "c", 2*nextAfter + time.Millisecond, "", ""},
		{"one that fails at once", map[string]time.Duration{"a": -1, "b": time.Millisecond}, []string{"a", "b"}, "b", time.Millisecond + 1, "", ""},
		{"a slow one is not given up", map[string]time.Duration{"a": 2 * time.Second, "b": -1}, []string{"a", "b"}, "a", 2 * time.Second, "", ""},
		{"both are slow", map[string]time.Duration{"a": nextAfter + 2, "b": 1}, []string{"a", "b"}, "b", nextAfter + 1, "", "a"},
		{"all fail", map[string]time.Duration{"a": -1, "b": -2}, []string{"a", "b"}, "", 3, "no a; no b", ""},
		{"none answers", map[string]time.Duration{"a": never}, []string{"a"}, "", dialTimeout, "no a", ""},
		{"there is none", nil, nil, "", 0, "this node knows no manager of its swarm", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), dialTimeout)
				defer cancel()
				closed := make(chan string, len(c.addrs))
				began := time.Now()
				l, err := firstOf(ctx, c.addrs, func(ctx context.Context, addr string) (fakeLink, error) {
					takes := c.takes[addr]
					if addr != c.late {
						select {
						case <-time.After(max(takes, -takes)):
						case <-ctx.Done():
							return fakeLink{}, errors.New("no " + addr)
						}
					} else {
						<-time.After(takes)
					}
					if takes < 0 {
						return fakeLink{}, errors.New("no " + addr)
					}
					return fakeLink{addr, closed}, nil
				})
				if took := time.Since(began); l.addr != c.got || took != c.after || (err == nil) != (c.err == "") || err != nil && err.Error() != c.err {
					t.Errorf("%q after %s, %v", l.addr, took, err)
				}
				if c.late != "" {
					if which := <-closed; which != c.late {
						t.Errorf("%s was closed", which)
					}
				}
				synctest.Wait()
				if len(closed) > 0 {
					t.Errorf("%s was closed", <-closed)
				}
			})
		})
	}
}
