package agent

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestTheNodesOwnClock(t *testing.T) {
	var log bytes.Buffer
	a := &Agent{log: slog.New(slog.NewTextHandler(&log, nil))}
	now := time.Now()
	for _, manager := range []time.Time{{}, now, now.Add(-time.Minute), now.Add(-time.Minute), now, now.Add(time.Minute)} {
		a.compareClock(now.Add(-time.Second), now.Add(time.Second), manager)
	}
	if got := log.String(); strings.Count(got, "level=WARN") != 2 || strings.Count(got, "level=INFO") != 1 || !strings.Contains(got, "ahead=1m0s") || !strings.Contains(got, "ahead=-1m0s") {
		t.Errorf("said:\n%s", got)
	}
}
