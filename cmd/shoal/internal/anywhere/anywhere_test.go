package anywhere

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/events"
)

// Events that come out of order, from nodes that are slow by less than the others wait, are put in order.
func TestEventsAreInTheOrderOfTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &watcher{in: make(chan events.Message)}
		ended := make(chan struct{})
		began := time.Now()
		go func() {
			defer close(ended)
			for _, x := range []struct {
				after time.Duration
				nano  int64
			}{{0, 3}, {0, 1}, {settle / 2, 2}, {2 * settle, 5}, {settle / 5, 4}} {
				time.Sleep(x.after)
				w.in <- events.Message{TimeNano: x.nano}
			}
		}()
		var got []int64
		if err := w.merge(t.Context(), ended, func(e events.Message) error {
			if e.TimeNano < 4 && time.Since(began) > 2*settle {
				t.Errorf("event %d waited for %s", e.TimeNano, time.Since(began))
			}
			got = append(got, e.TimeNano)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff([]int64{1, 2, 3, 4, 5}, got); d != "" {
			t.Error(d)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("lost"))
		if err := w.merge(ctx, nil, nil); err == nil || err.Error() != "lost" {
			t.Errorf("the end of the connection is %v", err)
		}
	})
}

func TestWhatIsUsed(t *testing.T) {
	n1, n2 := member{id: "1", name: "node1", memory: 100}, member{id: "2", name: "node2"}
	at := time.Unix(1000, 0)
	one := func(n member, service string, seconds int, cpu time.Duration) sample {
		s := sample{node: n, at: at.Add(time.Duration(seconds) * time.Second), cpu: uint64(cpu), use: Use{Memory: 10, Limit: 50, Received: 3, Sent: 4}}
		if service != "" {
			s.labels = map[string]string{labelService: service, labelTaskName: service + ".1.x"}
		}
		return s
	}
	before := map[string]sample{"a": one(n1, "web", 0, time.Second), "b": one(n1, "", 0, 0)}
	now := map[string]sample{"a": one(n1, "web", 2, 2*time.Second), "b": one(n1, "", 1, 2*time.Second), "new": one(n2, "db", 1, time.Hour)}
	got := tabulate([]member{n1, n2, {id: "3", name: "node3", down: "down"}}, before, now)
	want := Table{
		Nodes:    []Use{{Name: "node1", Containers: 2, CPU: 250, Memory: 20, Limit: 100, Received: 6, Sent: 8}, {Name: "node2", Containers: 1, Memory: 10, Received: 3, Sent: 4}},
		Services: []Use{{Name: "db", Containers: 1, Memory: 10, Received: 3, Sent: 4}, {Name: "web", Containers: 1, CPU: 50, Memory: 10, Received: 3, Sent: 4}},
		Tasks: []Use{
			{Name: "web.1.x", Node: "node1", Containers: 1, CPU: 50, Memory: 10, Limit: 50, Received: 3, Sent: 4},
			{Name: "db.1.x", Node: "node2", Containers: 1, Memory: 10, Limit: 50, Received: 3, Sent: 4},
		},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	var out strings.Builder
	got.write(&out)
	if text := strings.Join(strings.Fields(out.String()), " "); !strings.Contains(text, "TASK NODE CPU %") || !strings.Contains(text, "web.1.x node1 50.00% 10B / 50B 3B / 4B") {
		t.Errorf("the table:\n%s", out.String())
	}
}

func TestWhatMayBeATask(t *testing.T) {
	for id, want := range map[string]bool{
		"xvhhlaskfmnr": true, "0123456789ab": false, "web.1": false, strings.Repeat("z", 25): true, "Zz0123456789": false,
	} {
		if got := taskID.MatchString(id); got != want {
			t.Errorf("%s: %v", id, got)
		}
	}
}
