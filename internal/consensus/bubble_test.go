//go:build !race

package consensus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"shoal.dev/shoal/internal/store"
)

// bubbleGroup opens three managers on transports in memory, with the default time-outs.
func bubbleGroup(t *testing.T, dir string) ([]*member, []*raft.InmemTransport) {
	var ms []*member
	var ts []*raft.InmemTransport
	for i := range 3 {
		id := fmt.Sprint("m", i)
		_, tr := raft.NewInmemTransportWithTimeout(raft.ServerAddress(id), time.Second)
		ts = append(ts, tr)
		m := &member{id: id, addr: id, store: store.New()}
		var err error
		m.Consensus, err = Open(Config{
			Dir: filepath.Join(dir, id), NodeID: id, Addr: id, Transport: tr, Store: m.store, Key: testKey(), Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		ms = append(ms, m)
	}
	for i := range ts {
		mend(ts, i)
	}
	return ms, ts
}

func cut(ts []*raft.InmemTransport, i int) {
	ts[i].DisconnectAll()
	for _, o := range ts {
		o.Disconnect(ts[i].LocalAddr())
	}
}

func mend(ts []*raft.InmemTransport, i int) {
	for j, o := range ts {
		if i != j {
			ts[i].Connect(o.LocalAddr(), o)
			o.Connect(ts[i].LocalAddr(), ts[i])
		}
	}
}

func TestAPartitionUnderAFakeClock(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ms, ts := bubbleGroup(t, dir)
		defer func() {
			for _, m := range ms {
				if err := m.Close(); err != nil {
					t.Error(err)
				}
			}
		}()
		began := time.Now()
		if err := ms[0].Bootstrap(); err != nil {
			t.Fatal(err)
		}
		if !<-ms[0].LeadershipCh() {
			t.Fatal("the first notice is a loss")
		}
		if d := time.Since(began); d > 10*time.Millisecond {
			t.Errorf("a first manager led after %s", d)
		}
		for _, m := range ms[1:] {
			if err := ms[0].AddVoter(t.Context(), m.id, m.addr); err != nil {
				t.Fatal(err)
			}
		}
		mustWrite(t, ms[0], "before")
		if _, err := ms[0].ReadIndex(t.Context()); err != nil { // the first of a term does more than the next
			t.Fatal(err)
		}

		// Nothing flaps while all is well.
		select {
		case v := <-ms[0].LeadershipCh():
			t.Fatalf("leadership changed to %v in a quiet hour", v)
		case <-time.After(time.Hour):
		}

		cut(ts, 0)
		began = time.Now()
		// The old leader does not know yet that it is one no more.
		lost, read := make(chan error, 1), make(chan error, 1)
		go func() {
			_, err := ms[0].ReadIndex(t.Context())
			read <- err
		}()
		go func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, err := write(ctx, ms[0], "lost")
			lost <- err
		}()
		var l *member
		for l == nil {
			time.Sleep(10 * time.Millisecond)
			for _, m := range ms[1:] {
				if m.IsLeader() {
					l = m
				}
			}
		}
		healed := time.Since(began)
		t.Logf("a new leader after %s", healed)
		if healed > 4*time.Second { // one split vote may come between
			t.Errorf("a new leader after %s", healed)
		}
		mustWrite(t, l, "during")
		if err := <-lost; err == nil || errors.Is(err, store.ErrNotLeader) {
			t.Errorf("a write on the wrong side: %v", err)
		}
		if <-ms[0].LeadershipCh() {
			t.Error("the old leader does not say that it lost")
		}
		if err := <-read; !errors.Is(err, store.ErrNotLeader) {
			t.Errorf("a read on the wrong side: %v", err)
		}

		mend(ts, 0)
		i := mustWrite(t, l, "after")
		if err := ms[0].store.WaitIndex(t.Context(), i); err != nil {
			t.Fatal(err)
		}
		for _, m := range ms {
			if err := m.store.WaitIndex(t.Context(), i); err != nil {
				t.Fatal(err)
			}
			if !has(m, "before") || !has(m, "during") || !has(m, "after") || has(m, "lost") {
				t.Errorf("%s has another history", m.id)
			}
		}
		// The returned one does not upset the leader.
		time.Sleep(time.Minute)
		if !l.IsLeader() {
			t.Error("the return of the old leader cost the new one its office")
		}
	})
}

// A new leader's store may not have yet what the old one acknowledged last: a read through it must wait for that.
func TestANewLeadersFirstReadUnderAFakeClock(t *testing.T) {
	for range 8 {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			ms, ts := bubbleGroup(t, dir)
			if err := ms[0].Bootstrap(); err != nil {
				t.Fatal(err)
			}
			<-ms[0].LeadershipCh()
			for _, m := range ms[1:] {
				if err := ms[0].AddVoter(t.Context(), m.id, m.addr); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(time.Second)
			mustWrite(t, ms[0], "last") // the others have it and do not know that it is committed
			cut(ts, 0)
			var l *member
			select {
			case <-ms[1].LeadershipCh():
				l = ms[1]
			case <-ms[2].LeadershipCh():
				l = ms[2]
			}
			index, err := l.ReadIndex(t.Context())
			if err != nil {
				t.Error(err)
			}
			if err := l.store.WaitIndex(t.Context(), index); err != nil {
				t.Error(err)
			}
			if !has(l, "last") {
				t.Errorf("a read at %d misses an acknowledged write", index)
			}
			for _, m := range ms {
				m.Close()
			}
		})
	}
}

func TestHowLongALeadersDeathIsFeltUnderAFakeClock(t *testing.T) {
	var worst, sum time.Duration
	const runs = 40
	for range runs {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			ms, ts := bubbleGroup(t, dir)
			if err := ms[0].Bootstrap(); err != nil {
				t.Fatal(err)
			}
			<-ms[0].LeadershipCh()
			for _, m := range ms[1:] {
				if err := ms[0].AddVoter(t.Context(), m.id, m.addr); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(3 * time.Second)
			cut(ts, 0)
			ms[0].Close()
			began := time.Now()
			for !ms[1].IsLeader() && !ms[2].IsLeader() {
				time.Sleep(10 * time.Millisecond)
			}
			d := time.Since(began)
			worst, sum = max(worst, d), sum+d
			ms[1].Close()
			ms[2].Close()
		})
	}
	t.Logf("mean %s, worst %s", sum/runs, worst)
	// One heartbeat time-out, and now and then a split vote.
	if mean := sum / runs; mean > 1300*time.Millisecond || worst > 4*time.Second {
		t.Errorf("a leader's death is healed after %s on average, %s at worst", mean, worst)
	}
}
