package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
)

func TestOf(t *testing.T) {
	for _, tc := range []struct {
		name string
		cfg  container.Config
		want *Check
	}{
		{"none", container.Config{}, nil},
		{"inherited from nothing", container.Config{Healthcheck: &container.HealthConfig{Interval: time.Second}}, nil},
		{"switched off", container.Config{Healthcheck: &container.HealthConfig{Test: []string{"NONE"}}}, nil},
		{"unknown kind", container.Config{Healthcheck: &container.HealthConfig{Test: []string{"HTTP", "/"}}}, nil},
		{"no command", container.Config{Healthcheck: &container.HealthConfig{Test: []string{"CMD"}}}, nil},
		{"defaults", container.Config{Healthcheck: &container.HealthConfig{Test: []string{"CMD", "a", "b"}}},
			&Check{Command: []string{"a", "b"}, Interval: 30 * time.Second, Timeout: 30 * time.Second, StartInterval: 5 * time.Second, Retries: 3}},
		{"shell", container.Config{Healthcheck: &container.HealthConfig{Test: []string{"CMD-SHELL", "a b"}, Interval: 1e6, Timeout: 2e6, StartPeriod: 3e6, StartInterval: 4e6, Retries: 5}},
			&Check{Command: []string{"/bin/sh", "-c", "a b"}, Interval: 1e6, Timeout: 2e6, StartPeriod: 3e6, StartInterval: 4e6, Retries: 5}},
		{"the image's shell", container.Config{Shell: []string{"/bin/ash", "-ec"}, Healthcheck: &container.HealthConfig{Test: []string{"CMD-SHELL", "a"}, Retries: 1}},
			&Check{Command: []string{"/bin/ash", "-ec", "a"}, Interval: 30 * time.Second, Timeout: 30 * time.Second, StartInterval: 5 * time.Second, Retries: 1}},
	} {
		if d := cmp.Diff(tc.want, Of(&tc.cfg)); d != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, d)
		}
	}
}

func TestMerged(t *testing.T) {
	image := &container.HealthConfig{Test: []string{"CMD", "i"}, Interval: 1, Timeout: 2, StartPeriod: 3, StartInterval: 4, Retries: 5}
	for _, tc := range []struct {
		name       string
		own, image *container.HealthConfig
		want       *container.HealthConfig
	}{
		{"nothing", nil, nil, nil},
		{"the image's", nil, image, image},
		{"its own", image, nil, image},
		{"another command", &container.HealthConfig{Test: []string{"NONE"}}, image, &container.HealthConfig{Test: []string{"NONE"}, Interval: 1, Timeout: 2, StartPeriod: 3, StartInterval: 4, Retries: 5}},
		{"other times", &container.HealthConfig{Interval: 9, Retries: 9}, image, &container.HealthConfig{Test: []string{"CMD", "i"}, Interval: 9, Timeout: 2, StartPeriod: 3, StartInterval: 4, Retries: 9}},
	} {
		if d := cmp.Diff(tc.want, Merged(tc.own, tc.image)); d != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, d)
		}
	}
}

func TestDelay(t *testing.T) {
	plain := &Check{Interval: 30, StartInterval: 5}
	period := &Check{Interval: 30, StartInterval: 5, StartPeriod: 100}
	for _, tc := range []struct {
		name   string
		k      *Check
		status container.HealthStatus
		since  time.Duration
		want   time.Duration
	}{
		{"no start period", plain, container.Starting, 0, 30},
		{"starting", period, container.Starting, 0, 5},
		{"healthy in the start period", period, container.Healthy, 10, 30},
		{"near its end", period, container.Starting, 98, 2},
		{"near its end, healthy", period, container.Healthy, 80, 20},
		{"after it", period, container.Starting, 100, 30},
		{"a clock that was set back", period, container.Starting, -1000, 5},
	} {
		if got := tc.k.Delay(tc.status, tc.since); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.name, got, tc.want)
		}
	}
}

// probes is what a container's probes do, one after the other; the last one goes on.
type probes struct {
	do    []Probe
	began []time.Duration // since the first watch
	start time.Time
}

func (p *probes) run(ctx context.Context, out io.Writer, running func()) (int, error) {
	p.began = append(p.began, time.Since(p.start))
	return p.do[min(len(p.began), len(p.do))-1](ctx, out, running)
}

func ends(code int) Probe {
	return func(_ context.Context, _ io.Writer, running func()) (int, error) { running(); return code, nil }
}

// hangs does not end before it is killed, nor for some time after that.
func hangs(after time.Duration) Probe {
	return func(ctx context.Context, out io.Writer, running func()) (int, error) {
		running()
		fmt.Fprint(out, "hm")
		<-ctx.Done()
		time.Sleep(after)
		return 137, nil
	}
}

// watch runs probes for some time and returns what was published, "status streak exit-code output" each.
func watch(t *testing.T, k *Check, p *probes, d time.Duration) []string {
	t.Helper()
	var got []string
	p.start = time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	var all Watches
	all.Start(ctx, "c", Watch{Check: k, Started: time.Now(), Health: k.Begin(nil), Probe: p.run, Publish: func(_ context.Context, h *container.Health) {
		r := h.Log[len(h.Log)-1]
		got = append(got, fmt.Sprintf("%s %d %d %s", h.Status, h.FailingStreak, r.ExitCode, r.Output))
		if len(h.Log) > maxLog {
			t.Errorf("%d results are kept", len(h.Log))
		}
	}})
	<-ctx.Done()
	all.Settle(time.Hour)
	synctest.Wait()
	return got
}

func TestWatch(t *testing.T) {
	const s = time.Second
	every := &Check{Interval: 10 * s, Timeout: 3 * s, StartInterval: 2 * s, Retries: 2}
	period := &Check{Interval: 10 * s, Timeout: 3 * s, StartPeriod: 5 * s, StartInterval: 2 * s, Retries: 2}
	for _, tc := range []struct {
		name  string
		k     *Check
		do    []Probe
		want  []string
		began []time.Duration
	}{
		{"healthy, then not, then again", every, []Probe{ends(0), ends(1), ends(1), ends(0)},
			[]string{"healthy 0 0 ", "healthy 1 1 ", "unhealthy 2 1 ", "healthy 0 0 "}, []time.Duration{10 * s, 20 * s, 30 * s, 40 * s}},
		{"never healthy", every, []Probe{ends(2)},
			[]string{"starting 1 2 ", "unhealthy 2 2 ", "unhealthy 3 2 ", "unhealthy 4 2 "}, []time.Duration{10 * s, 20 * s, 30 * s, 40 * s}},
		{"failures in the start period do not count", period, []Probe{ends(1)},
			[]string{"starting 0 1 ", "starting 0 1 ", "starting 1 1 ", "unhealthy 2 1 ", "unhealthy 3 1 ", "unhealthy 4 1 "},
			[]time.Duration{2 * s, 4 * s, 5 * s, 15 * s, 25 * s, 35 * s}},
		{"they do once it was healthy", period, []Probe{ends(0), ends(1), ends(1), ends(0)},
			[]string{"healthy 0 0 ", "healthy 1 1 ", "unhealthy 2 1 ", "healthy 0 0 ", "healthy 0 0 "}, []time.Duration{2 * s, 5 * s, 15 * s, 25 * s, 35 * s}},
		{"too long", every, []Probe{hangs(0)},
			[]string{"starting 1 -1 Health check exceeded timeout (3s): hm", "unhealthy 2 -1 Health check exceeded timeout (3s): hm", "unhealthy 3 -1 Health check exceeded timeout (3s): hm"},
			[]time.Duration{10 * s, 23 * s, 36 * s}},
		{"cannot be killed", every, []Probe{hangs(20 * s), ends(0)},
			[]string{"starting 1 -1 Health check exceeded timeout (3s): hm", "unhealthy 2 -1 the health check before has not ended yet although it was killed", "healthy 0 0 "},
			[]time.Duration{10 * s, 38 * s}},
		{"does not start", every, []Probe{func(ctx context.Context, _ io.Writer, _ func()) (int, error) { <-ctx.Done(); return 0, ctx.Err() }},
			[]string{"starting 1 -1 the health check did not start within 30s"}, []time.Duration{10 * s}},
		{"no such program", every, []Probe{func(context.Context, io.Writer, func()) (int, error) { return 0, errors.New("not found") }, ends(0)},
			[]string{"starting 1 -1 not found", "healthy 0 0 ", "healthy 0 0 ", "healthy 0 0 "}, []time.Duration{10 * s, 20 * s, 30 * s, 40 * s}},
		{"talks", every, []Probe{func(_ context.Context, out io.Writer, running func()) (int, error) {
			running()
			for range 3 {
				if n, err := out.Write(make([]byte, 2000)); n != 2000 || err != nil {
					return 0, errors.New("what is too much is to be swallowed")
				}
			}
			return 0, nil
		}, ends(0)}, []string{"healthy 0 0 " + strings.Repeat("\x00", 4096) + "...", "healthy 0 0 ", "healthy 0 0 ", "healthy 0 0 "},
			[]time.Duration{10 * s, 20 * s, 30 * s, 40 * s}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &probes{do: tc.do}
				got := watch(t, tc.k, p, 44*s)
				if d := cmp.Diff(tc.want, got); d != "" {
					t.Errorf("published (-want +got):\n%s", d)
				}
				if d := cmp.Diff(tc.began, p.began); d != "" {
					t.Errorf("probed at (-want +got):\n%s", d)
				}
			})
		})
	}
}

// A watch that is stopped while it probes kills the probe and publishes nothing; another one takes its place.
func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w Watches
		var got []string
		c := func(name string, p Probe) Watch {
			return Watch{Check: &Check{Interval: time.Second, Timeout: time.Hour, Retries: 1}, Started: time.Now(), Health: &container.Health{}, Probe: p,
				Publish: func(context.Context, *container.Health) { got = append(got, name) }}
		}
		killed := 0
		w.Start(t.Context(), "a", c("a", func(ctx context.Context, _ io.Writer, running func()) (int, error) {
			running()
			<-ctx.Done()
			killed++
			return 0, nil
		}))
		time.Sleep(1500 * time.Millisecond)
		w.Start(t.Context(), "a", c("again", ends(0)))
		synctest.Wait()
		if killed != 1 {
			t.Error("the probe of the watch before runs on")
		}
		time.Sleep(2500 * time.Millisecond)
		w.Stop("a")
		w.Stop("nobody")
		w.Start(t.Context(), "b", c("b", ends(0)))
		w.StopAll()
		w.Settle(time.Minute)
		time.Sleep(time.Minute)
		if d := cmp.Diff([]string{"again", "again"}, got); d != "" {
			t.Error(d)
		}
		over, cancel := context.WithCancel(t.Context())
		cancel()
		w.Start(over, "c", c("c", ends(0)))
		if slices.Contains(got, "c") {
			t.Error("a watch began after the end")
		}
	})
}
