package lab_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"shoal.dev/shoal/lab"
)

// trafficPause is the time between two requests through one host: some hundreds a second through three of them, which
// leaves the machine to what is tested.
const trafficPause = 5 * time.Millisecond

// traffic is the requests to a published port from outside, through every host at once, each over a new connection.
type traffic struct {
	mu       sync.Mutex
	answers  int
	versions map[string]int // answers by the version of who answered
	failed   []string
	slowest  time.Duration
	stop     func()
}

// asking begins to ask port 8080 of the first hosts, until stop is called, which waits for the last answers.
func (w *world) asking(nodes int) *traffic {
	ctx, cancel := context.WithCancel(w.t.Context())
	a := &traffic{versions: map[string]int{}}
	var wg sync.WaitGroup
	a.stop = func() { cancel(); wg.Wait() }
	for n := 1; n <= nodes; n++ {
		url := fmt.Sprintf("http://%s:8080", w.Host(n).Addr)
		wg.Go(func() {
			tick := time.NewTicker(trafficPause)
			defer tick.Stop()
			for ctx.Err() == nil {
				begin := time.Now()
				answer, err := w.ask(lab.ClientNamespace, url)
				a.book(begin, answer, err)
				select {
				case <-tick.C:
				case <-ctx.Done():
				}
			}
		})
	}
	return a
}

func (a *traffic) book(begin time.Time, got answer, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.slowest = max(a.slowest, time.Since(begin))
	if err != nil {
		a.failed = append(a.failed, begin.Format("15:04:05.000")+" "+err.Error())
		return
	}
	a.answers++
	a.versions[got["version"]]++
}

// undisturbed does something under load; no request may fail meanwhile.
func (w *world) undisturbed(what string, do func()) *traffic {
	w.t.Helper()
	a := w.asking(3)
	do()
	a.stop()
	if len(a.failed) > 0 {
		w.t.Errorf("%s: %d requests failed and %d were answered: %q", what, len(a.failed), a.answers, a.failed[:min(10, len(a.failed))])
	}
	if a.answers < 20 {
		w.t.Errorf("%s: only %d requests were answered", what, a.answers)
	}
	return a
}

// updatesEnv says how many updates [TestUpdatesLoseNothing] makes.
const updatesEnv = "SHOAL_UPDATES"

// TestUpdatesLoseNothing updates a service again and again under load, forth and back between two versions, in either
// order and with several at a time. Its image has no health check.
func TestUpdatesLoseNothing(t *testing.T) {
	updates := 6
	if v := os.Getenv(updatesEnv); v != "" {
		var err error
		if updates, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	w := newWorld(t, 3)
	w.swarm(3, 1)
	w.shoal(1, "service", "create", "--quiet", "--name", "hello", "--replicas", "6", "--publish", "8080:80", "--update-monitor", "100ms", "hello:1")
	w.version("1", 6)
	begin := time.Now()
	a := w.undisturbed(fmt.Sprintf("%d updates", updates), func() {
		for i := range updates {
			version, order := 2-i%2, []string{"stop-first", "start-first"}[i/2%2]
			parallelism := 1 + i%3
			from := time.Now()
			w.shoal(1, "service", "update", "--quiet", "--image", fmt.Sprintf("hello:%d", version), "--update-order", order,
				"--update-parallelism", strconv.Itoa(parallelism), "hello")
			w.updateIs("hello", "completed: update completed", time.Second)
			t.Logf("%s update %d to %d, %s, %d at a time: %s", from.Format("15:04:05.000"), i+1, version, order, parallelism, time.Since(from).Round(time.Millisecond))
		}
	})
	t.Logf("%d updates in %s: %d requests answered, %d failed, the slowest took %s; by version %v",
		updates, time.Since(begin).Round(time.Second), a.answers, len(a.failed), a.slowest.Round(time.Millisecond), a.versions)
	if a.versions["1"] == 0 || a.versions["2"] == 0 {
		t.Errorf("not both versions answered: %v", a.versions)
	}
}
