package swarm

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestSpike(t *testing.T) {
	dir := t.TempDir()
	began := time.Now()
	synctest.Test(t, func(t *testing.T) {
		w, err := spike(1, Options{Dir: dir})
		for _, l := range w.trace {
			t.Log(l)
		}
		if err != nil {
			t.Error(err)
		}
	})
	t.Log(time.Since(began))
}
