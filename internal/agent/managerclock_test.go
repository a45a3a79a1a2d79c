package agent

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestTheNodesOwnClock(t *testing.T) {
	var log bytes.Buffer
	var ahead []time.Duration
	a := New(Config{Log: slog.New(slog.NewTextHandler(&log, nil)), OnClock: func(d time.Duration) { ahead = append(ahead, d.Round(time.Second)) }})
	now := time.Now()
	for _, manager := range []time.Time{{}, now, now.Add(-time.Minute), now.Add(-time.Minute), now, now.Add(time.Minute)} {
		a.compareClock(now.Add(-time.Second), now.Add(time.Second), manager)
	}
	if got := log.String(); strings.Count(got, "level=WARN") != 2 || strings.Count(got, "level=INFO") != 1 || !strings.Contains(got, "ahead=1m0s") || !strings.Contains(got, "ahead=-1m0s") {
		t.Errorf("said:\n%s", got)
	}
	if want := []time.Duration{0, time.Minute, time.Minute, 0, -time.Minute}; !slices.Equal(ahead, want) {
		t.Errorf("ahead %v, want %v", ahead, want)
	}
}
