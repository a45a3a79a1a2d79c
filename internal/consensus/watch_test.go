package consensus

import (
	"testing"
	"time"
)

func TestSilence(t *testing.T) {
	const ms = time.Millisecond
	at := func(i int) time.Time { return time.Unix(int64(i), 0) }
	type look struct {
		follows bool
		heard   int
		pause   time.Duration
		over    bool
	}
	times := func(n int, l look) (all []look) {
		for range n {
			all = append(all, l)
		}
		return all
	}
	cases := map[string][]look{
		"a leader that is heard":         {{true, 1, 50 * ms, false}, {true, 2, 2 * time.Second, false}, {true, 3, 50 * ms, false}},
		"a silent one, once":             append(append(times(21, look{true, 1, 50 * ms, false}), look{true, 1, 50 * ms, true}), times(50, look{true, 1, 50 * ms, false})...),
		"heard again, and silent":        append(times(20, look{true, 1, 50 * ms, false}), append(times(21, look{true, 2, 50 * ms, false}), look{true, 2, 50 * ms, true})...),
		"this host's stall is no proof":  {{true, 1, 50 * ms, false}, {true, 1, time.Minute, false}, {true, 2, 50 * ms, false}},
		"slow looks count in part":       append(times(7, look{true, 1, 150 * ms, false}), look{true, 1, 300 * ms, true}),
		"whoever leads or stands itself": times(60, look{false, 1, 50 * ms, false}),
	}
	for name, looks := range cases {
		t.Run(name, func(t *testing.T) {
			s := silence{timeout: time.Second, most: lateWatch * 50 * ms}
			for i, l := range looks {
				if got := s.over(l.follows, at(l.heard), l.pause); got != l.over {
					t.Fatalf("look %d, %+v: %v", i, l, got)
				}
			}
		})
	}
}
