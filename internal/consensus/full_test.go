package consensus

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// smallDisk mounts a disk in memory of so many bytes.
func smallDisk(t *testing.T, bytes int) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a small disk needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)); err != nil {
		t.Skip("mounting a small disk: ", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill writes a file until the disk is full, and returns what makes room again.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	name := filepath.Join(dir, "ballast")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(bytes.Repeat([]byte("x"), 4<<10))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(name); err != nil {
			t.Error(err)
		}
	}
}

// The manager at index has a full disk: the others take changes, also after a change of leadership; it loses nothing, and
// with room it catches up.
func TestAFullDiskStopsOneManagerOnly(t *testing.T) {
	for full, name := range []string{"leader", "follower"} {
		t.Run(name, func(t *testing.T) {
			disk := smallDisk(t, 16<<20)
			dir := t.TempDir()
			var ms []*member
			for i := range 3 {
				id := fmt.Sprint("m", i)
				at := filepath.Join(dir, id)
				if i == full {
					at = filepath.Join(disk, "raft")
				}
				ms = append(ms, start(t, id, "127.0.0.1:0", at, nil))
				if i == 0 {
					if err := ms[0].Bootstrap(); err != nil {
						t.Fatal(err)
					}
					eventually(t, "m0 leads", ms[0].IsLeader)
				} else if err := ms[0].AddVoter(t.Context(), id, ms[i].addr); err != nil {
					t.Fatal(err)
				}
			}
			mustWrite(t, ms[0], "before")
			free := fill(t, disk)
			done := 0
			// Whoever leads: so much that the log needs more of the disk, with changes of leadership in between.
			for done < 60 {
				id := fmt.Sprint("t", done)
				eventually(t, id+" is written", func() bool {
					for i, m := range ms {
						if has(m, id) {
							return true // by a try that was not confirmed
						}
						if !m.IsLeader() {
							continue
						}
						k := task(id)
						k.ServiceName = string(bytes.Repeat([]byte("x"), 4<<10))
						if _, err := writeRecord(t.Context(), m, k); err == nil {
							return true
						} else if i != full {
							t.Log(err)
						}
					}
					return false
				})
				done++
				if done%20 == 0 {
					for _, m := range ms {
						if m.IsLeader() {
							// To the full one nothing can be handed over.
							if err := m.Transfer(t.Context()); err != nil {
								t.Log(err)
							}
						}
					}
				}
			}
			if has(ms[full], "t59") {
				t.Fatal("the full disk was not full enough")
			}
			free()
			eventually(t, "the full one has all again", func() bool { return has(ms[full], "t59") && has(ms[full], "t0") && has(ms[full], "before") })
		})
	}
}

// A manager that waits for room can be closed, and what it had is there afterwards.
func TestAManagerOnAFullDiskCloses(t *testing.T) {
	disk := smallDisk(t, 16<<20)
	m := start(t, "m0", "127.0.0.1:0", filepath.Join(disk, "raft"), nil)
	if err := m.Bootstrap(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it leads", m.IsLeader)
	mustWrite(t, m, "a")
	free := fill(t, disk)
	written := make(chan error, 1)
	logs := m.logs
	go func() { written <- logs.Set([]byte("k"), bytes.Repeat([]byte("x"), 20<<20)) }()
	select {
	case err := <-written:
		t.Fatalf("with the disk full: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	free()
	m = m.restart(t)
	eventually(t, "it has what it had", func() bool { return has(m, "a") })
	eventually(t, "it leads again", m.IsLeader)
	mustWrite(t, m, "b")
}

func TestATermIsKeptWhenThereIsRoomAgain(t *testing.T) {
	disk := smallDisk(t, 16<<20)
	s, err := openLogStore(filepath.Join(disk, "log.db"), testKey())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	free := fill(t, disk)
	want := bytes.Repeat([]byte("x"), 2<<20)
	written := make(chan error, 1)
	go func() { written <- s.Set([]byte("term"), want) }()
	select {
	case err := <-written:
		t.Fatalf("with the disk full: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	free()
	if err := <-written; err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get([]byte("term")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}
