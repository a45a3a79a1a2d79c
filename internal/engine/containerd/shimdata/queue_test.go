package shimdata

import (
	"testing"
	"testing/synctest"
)

func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := NewQueue()
		half := make([]byte, Ahead/2)
		pushed := 0
		go func() {
			for q.Push(half) {
				pushed++
			}
		}()
		synctest.Wait()
		if pushed != 2 {
			t.Errorf("%d halves went in", pushed)
		}
		if b, more := q.Pop(); !more || len(b) != len(half) {
			t.Error("nothing came out")
		}
		synctest.Wait()
		if pushed != 3 {
			t.Errorf("%d halves went in after one came out", pushed)
		}
		q.Finish()
		synctest.Wait()
		for range 2 {
			if _, more := q.Pop(); !more {
				t.Error("what was held is lost at the end")
			}
		}
		if _, more := q.Pop(); more || pushed != 3 {
			t.Errorf("more after the end; %d went in", pushed)
		}

		q = NewQueue()
		q.Rush()
		for range 5 {
			if !q.Push(half) {
				t.Error("a rushed queue takes no more")
			}
		}
		q.Drop()
		if _, more := q.Pop(); more || q.Push(half) {
			t.Error("a dropped queue lives")
		}

		q = NewQueue()
		ended := false
		go func() { _, more := q.Pop(); ended = !more }()
		synctest.Wait()
		q.Drop()
		synctest.Wait()
		if !ended {
			t.Error("Pop outlives the queue")
		}
	})
}
