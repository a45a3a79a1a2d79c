package consensus

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestRetentionIsChangedWhileTheLogRuns makes snapshots often once it is told to, and keeps as many as it is told.
func TestRetentionIsChangedWhileTheLogRuns(t *testing.T) {
	m := group(t, 1, nil)[0]
	count := func() int {
		dirs, err := os.ReadDir(filepath.Join(m.dir, "snapshots"))
		if err != nil {
			t.Fatal(err)
		}
		return len(dirs)
	}
	writes := 0
	snapshot := func() {
		t.Helper()
		before := m.Stats().SnapshotIndex
		eventually(t, "there is a new snapshot", func() bool {
			writes++
			mustWrite(t, m, fmt.Sprintf("t%d", writes))
			return m.Stats().SnapshotIndex > before
		})
	}
	for range 30 {
		writes++
		mustWrite(t, m, fmt.Sprintf("t%d", writes))
	}
	if m.Stats().SnapshotIndex != 0 {
		t.Fatal("a snapshot was made after 30 entries, by default")
	}
	if err := m.SetRetention(Retention{Interval: 10, OldSnapshots: 3}); err != nil {
		t.Fatal(err)
	}
	for range 6 {
		snapshot()
	}
	eventually(t, "one and three older snapshots are kept", func() bool { return count() == 4 })
	if err := m.SetRetention(Retention{Interval: 10}); err != nil {
		t.Fatal(err)
	}
	if n := count(); n != 2 {
		t.Errorf("%d snapshots are kept, want the newest and one to fall back on", n)
	}
	m.lookNow()
	snapshot()
	if got := m.raft.ReloadableConfig(); got.SnapshotThreshold != 10 || got.TrailingLogs != 10 {
		t.Errorf("%+v", got)
	}
	if err := m.SetRetention(Retention{Interval: 10, Trailing: 50}); err != nil {
		t.Fatal(err)
	}
	if got := m.raft.ReloadableConfig(); got.TrailingLogs != 50 {
		t.Errorf("%+v", got)
	}
	again := m
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	again = again.restart(t)
	eventually(t, "every record is there", func() bool { return has(again, "t1") && has(again, fmt.Sprintf("t%d", writes)) })
}
